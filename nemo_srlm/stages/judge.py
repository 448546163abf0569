"""judge: the policy scores every candidate (judgements.jsonl, Judgement, in the candidates' order)."""

from collections.abc import Iterator
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.pipeline import export_ref
from nemo_srlm.core.records import Candidate, Judgement, Prompt
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.judge.judgements import JudgeItem
from nemo_srlm.stages.common.generating import usage_metrics
from nemo_srlm.stages.common.judging import JUDGEMENTS, checked_health, judge_all, judge_identity


def _items(ctx: Context) -> Iterator[JudgeItem]:
    """The candidates that were made, with their prompts' texts."""
    texts = {p.id: p.text for p in read_records(ctx.inputs["prompts"] / "prompts.jsonl", Prompt)}
    for candidate in read_records(ctx.inputs["candidates"] / "candidates.jsonl", Candidate):
        if not candidate.error:
            yield JudgeItem(candidate.id, candidate.prompt_id, texts[candidate.prompt_id], candidate.text)


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    refs = {"prompts": Ref("prompts", iteration), "candidates": Ref("candidates", iteration)}
    return refs if "judge" in cfg.api.stages else refs | {"model": export_ref(cfg, iteration - 1)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return judge_identity(cfg, "judge")


def _run(ctx: Context) -> None:
    judge_all(ctx, _items(ctx), "judge", ctx.iteration)


def _finalize(ctx: Context) -> dict[str, Any]:
    made = read_records(ctx.inputs["candidates"] / "candidates.jsonl", Candidate)
    merge_parts(ctx, Judgement, (candidate.id for candidate in made if not candidate.error), JUDGEMENTS)
    health = checked_health(ctx, read_records(ctx.dir / JUDGEMENTS, Judgement), ctx.cfg.judge.alarm_stops)
    failure, mean = health["parse_failure"] or 0.0, health["score_mean"]
    unjudged = sum(health["errors"].values())
    shown = "no score" if mean is None else f"mean score {mean:.2f}"
    return {
        **health,
        "engine": usage_metrics(ctx),
        "summary": f"{health['judgements'] - unjudged} judged, {shown}, {failure:.1%} without a score"
        + (f", {unjudged} not judged" if unjudged else ""),
    }


STAGE = Stage("judge", "generate", _inputs, _identity, _run, _finalize, lambda cfg: cfg.judge.shards)
