"""dpo: M_{t+1} from M_t on the iteration's preference pairs. The reference is the policy that the stage starts from.

Writes checkpoint/, metrics.jsonl and, if the loss needs a reference, reference.npz (its log-probabilities).
"""

from collections import Counter
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core import pipeline
from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import PreferencePair
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.stages.common import training


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    inputs = {
        "pairs": Ref("pairs", iteration), "policy": pipeline.policy_ref(cfg, iteration - 1),
        "tokenizer": pipeline.tokenizer_ref(cfg),
    }  # fmt: skip
    return inputs | ({"eft": Ref("eft", 0)} if cfg.dpo.replay_weight else {})


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return training.policy_identity(cfg, "dpo", "dpo")


def _run(ctx: Context) -> None:
    from nemo_srlm.data.chat import Chat
    from nemo_srlm.train.batches import drop_reason
    from nemo_srlm.train.megatron.dpo import fit_dpo
    from nemo_srlm.train.megatron.job import start

    section = ctx.cfg.dpo
    chat = Chat.of(training.open_tokenizer(ctx), ctx.cfg.chat)
    dropped: Counter[str] = Counter()
    pairs = []
    for pair in read_records(ctx.inputs["pairs"] / "pairs.jsonl", PreferencePair):
        chosen, rejected = chat.document(pair.prompt, pair.chosen), chat.document(pair.prompt, pair.rejected)
        reason = drop_reason((chosen, rejected), section.max_length)
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
    fit_dpo(start(job), fitted, replay, section, held)


STAGE = Stage("dpo", "train", _inputs, _identity, _run, training.summary, check=training.check)
