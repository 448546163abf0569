"""dpo: M_{t+1} from M_t on the iteration's preference pairs, or on all so far (dpo.pairs_from); with pairs of judgements where
the judge is trained (judge_training). The reference is the policy that the stage starts from, or M1 (dpo.reference).

Writes checkpoint/, metrics.jsonl and, if the loss needs a reference, reference.npz (its log-probabilities).
"""

from collections import Counter
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core import pipeline
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.stages.common import preference_examples, training


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    inputs = {
        "pairs": Ref("pairs", iteration), "policy": pipeline.policy_ref(cfg, iteration - 1),
        "tokenizer": pipeline.tokenizer_ref(cfg),
    }  # fmt: skip
    if cfg.dpo.reference == "m1" and iteration > 1:
        inputs["reference"] = pipeline.policy_ref(cfg, 0)
    kinds = ("pairs", *(["judge_pairs"] if pipeline.trains_judge(cfg) else []))
    inputs |= {kind: Ref(kind, iteration) for kind in kinds}
    if cfg.dpo.pairs_from == "all":
        inputs |= {f"{kind}_{t}": Ref(kind, t) for t in range(1, iteration) for kind in kinds}
    return inputs | ({"eft": Ref("eft", 0)} if cfg.dpo.replay_weight else {})


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    """Where the reference and earlier pairs come from is in the inputs: the first iteration is the same for all choices."""
    found = training.policy_identity(cfg, "dpo", "dpo")
    for name in ("reference", "pairs_from"):
        found["dpo"].pop(name, None)
    return found


def _run(ctx: Context) -> None:
    from nemo_srlm.data.chat import Chat
    from nemo_srlm.train.megatron.dpo import fit_dpo
    from nemo_srlm.train.megatron.job import start
    from nemo_srlm.train.megatron.reference import Pair

    section = ctx.cfg.dpo
    chat = Chat.of(training.open_tokenizer(ctx), ctx.cfg.chat)
    dropped: Counter[str] = Counter()
    found, replay = preference_examples.examples(ctx, chat, dropped)
    pairs = [Pair(one.pair.id, one.chosen, one.rejected, one.pair.weight, one.pair.certainty) for one in found]
    job = training.job(ctx, section, initial="policy")
    fitted, held = training.hold_out(pairs, section.num_validation, "dpo.num_validation", job.seed)
    kinds = preference_examples.count(ctx, found)
    counts = kinds | {"replay": len(replay)} | ({"of_these_validation": len(held)} if held else {})
    training.write_data(ctx, counts if pairs else {}, dropped)
    reference = ctx.inputs["reference"] / "checkpoint" if "reference" in ctx.inputs else None
    fit_dpo(start(job), fitted, replay, section, held, reference)


STAGE = Stage("dpo", "train", _inputs, _identity, _run, training.summary, check=training.checks("dpo"))
