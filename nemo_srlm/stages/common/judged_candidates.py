"""Judgements of an iteration's candidates, for the stages that make them: by the policy, by an earlier model, of an earlier
model's responses (judgements.jsonl, Judgement, in the candidates' order)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.pipeline import export_ref
from nemo_srlm.core.records import Candidate, Judgement, Prompt
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.judge.judgements import JudgeItem
from nemo_srlm.stages.common.generating import usage_metrics
from nemo_srlm.stages.common.judging import JUDGEMENTS, check_usable, checked_health, judge_all, judge_identity


def candidates_file(ctx: Context) -> Path:
    return ctx.inputs["candidates"] / "candidates.jsonl"


def made_ids(ctx: Context) -> Iterator[str]:
    """Ids of the candidates that were made, in order."""
    return (candidate.id for candidate in read_records(candidates_file(ctx), Candidate) if not candidate.error)


def items(ctx: Context) -> Iterator[JudgeItem]:
    """The candidates that were made, with their prompts' texts."""
    texts = {p.id: p.text for p in read_records(ctx.inputs["prompts"] / "prompts.jsonl", Prompt)}
    for candidate in read_records(candidates_file(ctx), Candidate):
        if not candidate.error:
            yield JudgeItem(candidate.id, candidate.prompt_id, texts[candidate.prompt_id], candidate.text)


def judge_candidates(ctx: Context) -> None:
    judge_all(ctx, items(ctx), ctx.dir.name, ctx.iteration)


def finalize(ctx: Context) -> dict[str, Any]:
    """Writes judgements.jsonl. Returns the judge's health as metrics."""
    merge_parts(ctx, Judgement, made_ids(ctx), JUDGEMENTS)
    health = checked_health(ctx, read_records(ctx.dir / JUDGEMENTS, Judgement), ctx.cfg.judge.alarm_stops)
    check_usable(ctx, health)
    failure, mean = health["parse_failure"] or 0.0, health["score_mean"]
    unjudged = sum(health["errors"].values())
    shown = "no score" if mean is None else f"mean score {mean:.2f}"
    return {
        **health,
        "engine": usage_metrics(ctx),
        "summary": f"{health['judgements'] - unjudged} judged, {shown}, {failure:.1%} without a score"
        + (f", {unjudged} not judged" if unjudged else ""),
    }


def judging_stage(name: str, candidates: str, behind: int = 1) -> Stage:
    """Scores what the stage `candidates` made in an iteration, by the model of `behind` iterations before (1: the policy)."""

    def inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
        refs = {"prompts": Ref("prompts", iteration), "candidates": Ref(candidates, iteration)}
        return refs | {"model": export_ref(cfg, iteration - behind)}

    def identity(cfg: Config, iteration: int) -> dict[str, Any]:
        return judge_identity(cfg, name)

    return Stage(name, "generate", inputs, identity, judge_candidates, finalize, lambda cfg: cfg.judge.shards)
