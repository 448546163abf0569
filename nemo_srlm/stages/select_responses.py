"""select_responses: the responses of every checkpoint that select compares (responses.jsonl, Candidate).

All draw with the same seeds, so only the checkpoint differs between two checkpoints' responses.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import content_digest, read_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.pipeline import world_inputs
from nemo_srlm.core.records import Candidate, Prompt, item_seed
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.errors import ConfigError
from nemo_srlm.generate import vllm_engine as engines
from nemo_srlm.generate.requests import Engine, Outcome, Request
from nemo_srlm.generate.responses import response_metrics, to_candidates
from nemo_srlm.stages.common import selecting
from nemo_srlm.stages.common.exporting import HF
from nemo_srlm.stages.common.generating import chat_ids, engine_identity, run_requests, usage_metrics


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"exports": Ref("select_export", iteration), **world_inputs(cfg)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = {name: identity(cfg.select)[name] for name in ("temperature", "top_p", "max_tokens", "num_prompts")}
    file = {} if world_inputs(cfg) else {"prompts": content_digest(Path(cfg.select.prompts))}
    return {"select": own, **file, **engine_identity(cfg)}


def _check(cfg: Config) -> None:
    """Raises ConfigError or DataError where there is no prompt to respond to."""
    if world_inputs(cfg):
        return
    if not cfg.select.prompts:
        raise ConfigError("select.prompts", "empty", "a file of held-out prompts", "set it, or select.every=0")
    selecting.prompts_of_file(cfg)


def _run(ctx: Context) -> None:
    cfg = ctx.cfg

    def request(engine: Engine, item_id: str, prompt: Prompt) -> Request:
        seed = item_seed(cfg.run.seed, "select_responses", prompt.id)
        ids = chat_ids(ctx, engine, prompt.text)
        return Request(
            item_id, ids, 1, seed, cfg.select.temperature, cfg.select.top_p, cfg.select.max_tokens, text=prompt.text
        )

    for name in selecting.checkpoints(ctx):

        def records(prompt: Prompt, outcome: Outcome, name: str = name) -> list[Candidate]:
            return [replace(c, id=selecting.response_id(prompt.id, name)) for c in to_candidates(prompt, 1, outcome)]

        items: Iterator[tuple[str, Prompt]] = ((selecting.response_id(p.id, name), p) for p in selecting.prompts(ctx))
        engine = partial(engines.shared, ctx.slot, ctx.inputs["exports"] / name / HF, cfg)
        run_requests(ctx, items, engine, request, records, f"prompts of {name}")


def _finalize(ctx: Context) -> dict[str, Any]:
    names, asked = selecting.checkpoints(ctx), selecting.prompts(ctx)
    merge_parts(
        ctx, Candidate, (selecting.response_id(p.id, name) for name in names for p in asked), selecting.RESPONSES
    )
    metrics = response_metrics(read_records(ctx.dir / selecting.RESPONSES, Candidate))
    return {**metrics, "prompts": len(asked), "engine": usage_metrics(ctx)}


STAGE = Stage(
    "select_responses", "generate", _inputs, _identity, _run, _finalize, lambda cfg: cfg.candidates.shards, _check
)
