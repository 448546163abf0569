"""anchors (pairs.rejected_from=m1): M1's responses to the iteration's prompts (candidates.jsonl), from iteration 2 on.

The worst of them is the rejected response of a pair, so that chosen and rejected stay apart while the policy gets better
(Temporal Self-Rewarding, arXiv 2508.06026).
"""

from collections.abc import Iterator
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records
from nemo_srlm.core.pipeline import export_ref
from nemo_srlm.core.records import Prompt
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.stages.common.generating import engine_identity
from nemo_srlm.stages.common.responding import merge_candidates, respond


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"prompts": Ref("prompts", iteration), "model": export_ref(cfg, 0)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return {"candidates": identity(cfg.candidates), **engine_identity(cfg)}


def _prompts(ctx: Context) -> Iterator[Prompt]:
    return read_records(ctx.inputs["prompts"] / "prompts.jsonl", Prompt)


def _run(ctx: Context) -> None:
    respond(ctx, _prompts(ctx), ctx.cfg.candidates, ctx.cfg.candidates.num, "anchors", ctx.iteration)


def _finalize(ctx: Context) -> dict[str, Any]:
    return merge_candidates(ctx, _prompts(ctx), ctx.cfg.candidates.num, "candidates.jsonl")


STAGE = Stage("anchors", "generate", _inputs, _identity, _run, _finalize, lambda cfg: cfg.candidates.shards)
