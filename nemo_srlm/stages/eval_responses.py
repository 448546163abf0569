"""eval_responses: a model's answers to the held-out prompts of the seed stage (responses.jsonl, Candidate)."""

from collections.abc import Callable, Iterator
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Candidate, Prompt
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.stages.candidates import merge_candidates, respond
from nemo_srlm.stages.common.generating import engine_identity

OUTPUT = "responses.jsonl"


def _inputs(model: str) -> Callable[[Config, int], dict[str, Ref]]:
    return lambda cfg, iteration: {"held_out": Ref("held_out", 0), "model": Ref(model, iteration)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = {name: identity(cfg.eval)[name] for name in ("temperature", "top_p", "max_tokens", "samples")}
    return {"eval": own, **engine_identity(cfg)}


def _prompts(ctx: Context) -> Iterator[Prompt]:
    return read_records(ctx.inputs["held_out"] / "eval_prompts.jsonl", Prompt)


def _run(ctx: Context) -> None:
    # No iteration in the seed: every model draws with the same seeds, what differs between two models is the model.
    respond(ctx, _prompts(ctx), ctx.cfg.eval, ctx.cfg.eval.samples, "eval_responses")


def _finalize(ctx: Context) -> dict[str, Any]:
    """Counts and means, and what the drift alarms of `status` and of the report go by."""
    from nemo_srlm.evaluate import drift

    metrics = merge_candidates(ctx, _prompts(ctx), ctx.cfg.eval.samples, OUTPUT)
    return {**metrics, "drift": drift.response_metrics(list(read_records(ctx.dir / OUTPUT, Candidate)))}


def _shards(cfg: Config) -> int:
    return cfg.candidates.shards


STAGE = Stage("eval_responses", "generate", _inputs("export"), _identity, _run, _finalize, _shards)
BASELINE = Stage("eval_responses_baseline", "generate", _inputs("export_baseline"), _identity, _run, _finalize, _shards)
