"""Judgements of an iteration's candidates, for the stages that make them: by the policy, by an earlier model, of an earlier
model's responses (judgements.jsonl, Judgement, in the candidates' order)."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.pipeline import export_ref
from nemo_srlm.core.records import Candidate, Judgement, Prompt
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.judge.judgements import JudgeItem
from nemo_srlm.stages.common.generating import usage_metrics
from nemo_srlm.stages.common.judging import JUDGEMENTS, check_usable, checked_health, judge_all, judge_identity

JUDGED = "judged.jsonl"  # judge.equal_texts=once, until the judgements of all candidates are written


def candidates_file(ctx: Context) -> Path:
    return ctx.inputs["candidates"] / "candidates.jsonl"


def _made(ctx: Context) -> Iterator[Candidate]:
    return (candidate for candidate in read_records(candidates_file(ctx), Candidate) if not candidate.error)


def made_ids(ctx: Context) -> Iterator[str]:
    """Ids of the candidates that were made, in order."""
    return (candidate.id for candidate in _made(ctx))


def _first_of_each_text(ctx: Context) -> Iterator[Candidate]:
    for _, group in groupby(_made(ctx), attrgetter("prompt_id")):
        first: dict[str, Candidate] = {}
        for candidate in group:
            first.setdefault(candidate.text, candidate)
        yield from first.values()


def items(ctx: Context) -> Iterator[JudgeItem]:
    """The candidates that were made, with their prompts' texts."""
    return _items(ctx, _made(ctx))


def _items(ctx: Context, candidates: Iterator[Candidate]) -> Iterator[JudgeItem]:
    texts = {p.id: p.text for p in read_records(ctx.inputs["prompts"] / "prompts.jsonl", Prompt)}
    for candidate in candidates:
        yield JudgeItem(candidate.id, candidate.prompt_id, texts[candidate.prompt_id], candidate.text)


def judge_candidates(ctx: Context) -> None:
    asked = _first_of_each_text(ctx) if ctx.cfg.judge.equal_texts == "once" else _made(ctx)
    judge_all(ctx, _items(ctx, asked), ctx.dir.name, ctx.iteration)


def _merge(ctx: Context) -> int:
    """Writes judgements.jsonl, one for every candidate that was made. Returns how many of them were judged themselves."""
    if ctx.cfg.judge.equal_texts != "once":
        return merge_parts(ctx, Judgement, made_ids(ctx), JUDGEMENTS)
    count = merge_parts(ctx, Judgement, (candidate.id for candidate in _first_of_each_text(ctx)), JUDGED)
    write_records(ctx.dir / JUDGEMENTS, _of_all(ctx))
    (ctx.dir / JUDGED).unlink()
    return count


def _of_all(ctx: Context) -> Iterator[Judgement]:
    judged = read_records(ctx.dir / JUDGED, Judgement)
    for _, group in groupby(_made(ctx), attrgetter("prompt_id")):
        found: dict[str, Judgement] = {}
        for candidate in group:
            if candidate.text not in found:
                found[candidate.text] = next(judged)
            yield replace(found[candidate.text], id=candidate.id)


def finalize(ctx: Context) -> dict[str, Any]:
    """Writes judgements.jsonl. Returns the judge's health as metrics."""
    judged = _merge(ctx)
    health = checked_health(ctx, read_records(ctx.dir / JUDGEMENTS, Judgement), ctx.cfg.judge.alarm_stops)
    check_usable(ctx, health)
    failure, mean = health["parse_failure"] or 0.0, health["score_mean"]
    unjudged, copies = sum(health["errors"].values()), health["judgements"] - judged
    shown = "no score" if mean is None else f"mean score {mean:.2f}"
    return {
        **health,
        "engine": usage_metrics(ctx),
        "summary": f"{health['judgements'] - unjudged} judged, {shown}, {failure:.1%} without a score"
        + (f", {copies} of them as equal texts" if copies else "")
        + (f", {unjudged} not judged" if unjudged else ""),
    }


def judged_identity(cfg: Config, stage: str) -> dict[str, Any]:
    """What decides the judgement on a candidate."""
    own = judge_identity(cfg, stage)
    return own | ({"equal_texts": cfg.judge.equal_texts} if cfg.judge.equal_texts != "each" else {})


def judging_stage(name: str, candidates: str, behind: int = 1) -> Stage:
    """Scores what the stage `candidates` made in an iteration, by the model of `behind` iterations before (1: the policy)."""

    def inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
        refs = {"prompts": Ref("prompts", iteration), "candidates": Ref(candidates, iteration)}
        return refs | {"model": export_ref(cfg, iteration - behind)}

    def identity(cfg: Config, iteration: int) -> dict[str, Any]:
        return judged_identity(cfg, name)

    return Stage(name, "generate", inputs, identity, judge_candidates, finalize, lambda cfg: cfg.judge.shards)
