"""select_responses: the answers of every checkpoint that select compares (responses.jsonl, Candidate).

All draw with the same seeds, so what differs between two checkpoints' answers is the checkpoint.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core import manifest
from nemo_srlm.core.files import content_digest, read_json, read_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.records import Candidate, Prompt, content_id, item_seed
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.data.prompt_sets import read_prompt_set
from nemo_srlm.errors import ConfigError
from nemo_srlm.generate import vllm_engine as engines
from nemo_srlm.generate.requests import Engine, Outcome, Request
from nemo_srlm.stages.candidates import response_metrics, to_candidates
from nemo_srlm.stages.common.generating import chat_ids, engine_identity, run_requests, usage_metrics
from nemo_srlm.stages.export import HF

OUTPUT = "responses.jsonl"
# of the tiny world: choices are made on this split, figures come from the other (settings.check sees to it)
WORLD_PROMPTS = "eval_prompts.dev.jsonl"


def response_id(prompt_id: str, checkpoint: str) -> str:
    return content_id("select", prompt_id, checkpoint)


def checkpoints(exports: Path) -> list[str]:
    """Names, oldest first, as the finished stage select_export lists them."""
    found: list[str] = read_json(exports / manifest.NAME)["metrics"]["checkpoints"]
    return found


def prompts(cfg: Config, world: Path | None) -> list[Prompt]:
    """What the checkpoints answer; `world` is the tiny world's directory."""
    if world is not None:
        found = list(read_records(world / WORLD_PROMPTS, Prompt))
    else:
        found = [asked.prompt for asked in read_prompt_set(Path(cfg.select.prompts), Counter())]
    return found[: cfg.select.num_prompts or None]


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"exports": Ref("select_export", iteration)} | ({"world": Ref("world", 0)} if cfg.world.enabled else {})


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = {name: identity(cfg.select)[name] for name in ("temperature", "top_p", "max_tokens", "num_prompts")}
    file = {} if cfg.world.enabled else {"prompts": content_digest(Path(cfg.select.prompts))}
    return {"select": own, **file, **engine_identity(cfg)}


def check(cfg: Config) -> None:
    """Raises ConfigError or DataError where there is nothing to answer."""
    if cfg.world.enabled:
        return
    if not cfg.select.prompts:
        raise ConfigError("select.prompts", "empty", "a file of held-out prompts", "set it, or select.every=0")
    prompts(cfg, None)


def _prompts(ctx: Context) -> list[Prompt]:
    return prompts(ctx.cfg, ctx.inputs.get("world"))


def _run(ctx: Context) -> None:
    cfg = ctx.cfg

    def request(engine: Engine, item_id: str, prompt: Prompt) -> Request:
        seed = item_seed(cfg.run.seed, "select_responses", prompt.id)
        ids = chat_ids(engine, cfg, prompt.text)
        return Request(
            item_id, ids, 1, seed, cfg.select.temperature, cfg.select.top_p, cfg.select.max_tokens, text=prompt.text
        )

    for name in checkpoints(ctx.inputs["exports"]):

        def records(prompt: Prompt, outcome: Outcome, name: str = name) -> list[Candidate]:
            return [replace(c, id=response_id(prompt.id, name)) for c in to_candidates(prompt, 1, outcome)]

        items: Iterator[tuple[str, Prompt]] = ((response_id(p.id, name), p) for p in _prompts(ctx))
        engine = partial(engines.shared, ctx.slot, ctx.inputs["exports"] / name / HF, cfg)
        run_requests(ctx, items, engine, request, records, f"prompts of {name}")


def _finalize(ctx: Context) -> dict[str, Any]:
    names, asked = checkpoints(ctx.inputs["exports"]), _prompts(ctx)
    merge_parts(ctx, Candidate, (response_id(p.id, name) for name in names for p in asked), OUTPUT)
    metrics = response_metrics(read_records(ctx.dir / OUTPUT, Candidate))
    return {**metrics, "prompts": len(asked), "engine": usage_metrics(ctx)}


STAGE = Stage(
    "select_responses", "generate", _inputs, _identity, _run, _finalize, lambda cfg: cfg.candidates.shards, check
)
