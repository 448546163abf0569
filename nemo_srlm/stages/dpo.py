"""dpo: M_{t+1} from M_t on the iteration's preference pairs. The reference is the policy that the stage starts from.

Writes checkpoint/, metrics.jsonl and reference.npz (the reference's log-probabilities, computed once).
"""

from collections import Counter
from typing import Any

from nemo_srlm.config import Config
from nemo_srlm.records import PreferencePair
from nemo_srlm.stage import Context, Ref, Stage
from nemo_srlm.stages import training
from nemo_srlm.store import read_records


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    inputs = {
        "pairs": Ref("pairs", iteration), "policy": training.policy_ref(cfg, iteration - 1),
        "tokenizer": training.tokenizer_ref(cfg),
    }  # fmt: skip
    return inputs | ({"eft": Ref("eft", 0)} if cfg.dpo.replay_weight else {})


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return training.policy_identity(cfg, "dpo", "dpo")


def _run(ctx: Context) -> None:
    from nemo_srlm.losses import DpoSettings
    from nemo_srlm.megatron import tasks, train
    from nemo_srlm.tokens import Chat, fits

    section = ctx.cfg.dpo
    chat = Chat.of(training.open_tokenizer(ctx), ctx.cfg.chat)
    dropped: Counter[str] = Counter()
    pairs = []
    for pair in read_records(ctx.inputs["pairs"] / "pairs.jsonl", PreferencePair):
        chosen, rejected = chat.document(pair.prompt, pair.chosen), chat.document(pair.prompt, pair.rejected)
        reason = fits((chosen, rejected), section.max_length)
        if reason:
            dropped[reason] += 1
        else:
            pairs.append((pair.id, chosen, rejected))
    replay = []
    if section.replay_weight:
        replay = training.sft_documents(ctx.inputs["eft"] / "eft_train.jsonl", chat, section.max_length, dropped)
    job = training.job(ctx, section, initial="policy")
    fitted, held = training.hold_out(pairs, section.num_validation, "dpo.num_validation", job.seed)
    counts = {"pairs": len(pairs), "replay": len(replay)} | ({"of_these_validation": len(held)} if held else {})
    training.write_data(ctx, counts if pairs else {}, dropped)
    settings = DpoSettings(
        beta=section.beta, loss=section.loss, label_smoothing=section.label_smoothing,
        length_normalised=section.length_normalised, nll_weight=section.nll_weight, replay_weight=section.replay_weight,
    )  # fmt: skip
    tasks.fit_dpo(train.start(job), fitted, replay, settings, section.ln2_tolerance, held)


STAGE = Stage("dpo", "train", _inputs, _identity, _run, training.summary, check=training.check)
