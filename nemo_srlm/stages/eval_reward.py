"""eval_reward: how well a model judges held-out human-ranked replies (judgements.jsonl; the paper's five metrics)."""

from collections.abc import Callable
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.records import Judgement
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.judge.judgements import JudgeItem
from nemo_srlm.judge.scores import required_valid
from nemo_srlm.stages.common.generating import usage_metrics
from nemo_srlm.stages.common.held_out import read_ranked
from nemo_srlm.stages.common.judging import JUDGEMENTS, checked_health, judge_all, judge_identity


def _inputs(model: str) -> Callable[[Config, int], dict[str, Ref]]:
    return lambda cfg, iteration: {"held_out": Ref("held_out", 0), "model": Ref(model, iteration)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return {**judge_identity(cfg, "eval_reward"), "bootstrap": cfg.eval.bootstrap}


def _run(ctx: Context) -> None:
    # No iteration in the seed: every model judges with the same seeds.
    judge_all(ctx, map(JudgeItem.of_ranked, read_ranked(ctx)), "eval_reward")


def _finalize(ctx: Context) -> dict[str, Any]:
    from nemo_srlm.evaluate.reward_metrics import reward_metrics

    cfg, replies = ctx.cfg, list(read_ranked(ctx))
    merge_parts(ctx, Judgement, [reply.id for reply in replies], JUDGEMENTS)
    judgements = {judgement.id: judgement for judgement in read_records(ctx.dir / JUDGEMENTS, Judgement)}
    metrics = reward_metrics(
        replies, judgements, required_valid(cfg.judge), cfg.judge.max_score, cfg.eval.bootstrap > 0
    )
    accuracy = metrics["pairwise_accuracy"]
    shown = "no pair was judged" if accuracy is None else f"pairwise accuracy {accuracy:.3f}"
    health = checked_health(ctx, judgements.values(), stops=False)
    return {
        **metrics,
        "health": health,
        "engine": usage_metrics(ctx),
        "summary": f"{len(replies)} responses judged, {shown}",
    }


def _shards(cfg: Config) -> int:
    return cfg.judge.shards


def _stage(suffix: str) -> Stage:
    return Stage(f"eval_reward{suffix}", "generate", _inputs(f"export{suffix}"), _identity, _run, _finalize, _shards)


STAGE, BASELINE, BASE = _stage(""), _stage("_baseline"), _stage("_base")
