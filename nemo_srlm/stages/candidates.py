"""candidates: N sampled responses of the policy to every new prompt (candidates.jsonl, Candidate, in prompt order)."""

from collections.abc import Iterator
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records
from nemo_srlm.core.pipeline import export_ref
from nemo_srlm.core.records import Prompt
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.stages.common.generating import engine_identity
from nemo_srlm.stages.common.responding import check_room, merge_candidates, respond


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"prompts": Ref("prompts", iteration), "model": export_ref(cfg, iteration - 1)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return {"candidates": identity(cfg.candidates), **engine_identity(cfg)}


def _prompts(ctx: Context) -> Iterator[Prompt]:
    return read_records(ctx.inputs["prompts"] / "prompts.jsonl", Prompt)


def _run(ctx: Context) -> None:
    cfg = ctx.cfg
    respond(ctx, _prompts(ctx), cfg.candidates, cfg.candidates.num, "candidates", ctx.iteration)


def _finalize(ctx: Context) -> dict[str, Any]:
    return merge_candidates(ctx, _prompts(ctx), ctx.cfg.candidates.num, "candidates.jsonl")


def _check(cfg: Config) -> None:
    check_room(cfg, "candidates", cfg.candidates)


STAGE = Stage("candidates", "generate", _inputs, _identity, _run, _finalize, lambda cfg: cfg.candidates.shards, _check)
