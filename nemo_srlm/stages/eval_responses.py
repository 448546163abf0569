"""eval_responses: a model's responses to the held-out prompts (responses.jsonl, Candidate)."""

from collections.abc import Callable
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Candidate
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.stages.common.generating import engine_identity
from nemo_srlm.stages.common.held_out import read_prompts
from nemo_srlm.stages.common.responding import check_room, merge_candidates, respond

OUTPUT = "responses.jsonl"


def _inputs(model: str) -> Callable[[Config, int], dict[str, Ref]]:
    return lambda cfg, iteration: {"held_out": Ref("held_out", 0), "model": Ref(model, iteration)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = {name: identity(cfg.eval)[name] for name in ("temperature", "top_p", "max_tokens", "samples")}
    return {"eval": own, **engine_identity(cfg)}


def _run(ctx: Context) -> None:
    # No iteration in the seed: every model draws with the same seeds, so only the model differs between two models.
    respond(ctx, read_prompts(ctx), ctx.cfg.eval, ctx.cfg.eval.samples, "eval_responses")


def _finalize(ctx: Context) -> dict[str, Any]:
    """Counts and means, and the metrics behind the drift alarms of `status` and of the report."""
    from nemo_srlm.evaluate import drift

    metrics = merge_candidates(ctx, read_prompts(ctx), ctx.cfg.eval.samples, OUTPUT)
    return {**metrics, "drift": drift.response_metrics(list(read_records(ctx.dir / OUTPUT, Candidate)))}


def _shards(cfg: Config) -> int:
    return cfg.candidates.shards


def _check(cfg: Config) -> None:
    check_room(cfg, "eval", cfg.eval)


def _stage(suffix: str) -> Stage:
    model = _inputs(f"export{suffix}")
    return Stage(f"eval_responses{suffix}", "generate", model, _identity, _run, _finalize, _shards, _check)


STAGE, BASELINE, BASE = _stage(""), _stage("_baseline"), _stage("_base")
