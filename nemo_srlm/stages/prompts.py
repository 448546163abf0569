"""prompts: the prompts of an iteration (prompts.jsonl, Prompt): of the user's files, or written few-shot by a fixed model
or the policy and filtered; or both (prompts.source).

The parts hold the raw attempts; a restarted stage replays the pool over them (see data/prompt_pool.py). The pool is
sequential, so this stage has one shard; it is a small part of an iteration's generation.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.generation import of_iteration
from nemo_srlm.config.schema import Config
from nemo_srlm.core import files
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.parts import PartWriter, finished_records
from nemo_srlm.core.pipeline import world_inputs
from nemo_srlm.core.records import Prompt, SftExample, content_id, item_seed
from nemo_srlm.core.stage import Context, Ref, Stage, run_directory, stage_directory
from nemo_srlm.data import templates
from nemo_srlm.data.few_shot import few_shot_parts
from nemo_srlm.data.near_copies import HeldOut
from nemo_srlm.data.prompt_filters import PromptFilter
from nemo_srlm.data.prompt_pool import Attempt, PromptPool, attempt_id, file_metrics
from nemo_srlm.data.prompt_sets import part_of_iteration
from nemo_srlm.data.written import Reader
from nemo_srlm.errors import CheckpointError, DataError
from nemo_srlm.generate.requests import Engine, Failure, Outcome, Request
from nemo_srlm.stages.common.generating import (
    chat_of,
    engine_for,
    note_usage,
    stage_identity,
    tokens_of,
    usage_metrics,
    while_starting,
)
from nemo_srlm.stages.common.seed_files import FILE_PROMPTS, held_out_texts
from nemo_srlm.tiny_world.held_out import forbidden_prompt

OUTPUT = "prompts.jsonl"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    refs = {"seed": Ref("seed", 0)}
    if cfg.prompts.source == "file":
        return refs
    refs |= {f"prompts{t}": Ref("prompts", t) for t in range(1, iteration)}
    if "prompts" in cfg.api.stages:
        return refs
    if cfg.prompts.writer == "policy":
        refs["writer"] = Ref("export", iteration - 1)
    elif not cfg.prompts.writer_path:
        refs["writer"] = Ref("export_base", 0)
    return refs


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    """The writer is identified by its files, not by its path."""
    own = identity(cfg.prompts)
    own.pop("per_iteration", None)  # the numbers of later iterations change nothing here
    own["num_prompts"] = wanted = _wanted(cfg, iteration)
    if cfg.prompts.source == "file":  # nothing is written: how many prompts of which files is all that counts
        shared = {} if wanted else {"iterations": cfg.iterations}
        shared |= {"before": before} if (before := _before(cfg, iteration)) != (iteration - 1) * wanted else {}
        return {"prompts": {"source": "file", "num_prompts": wanted}, **shared}
    own["template"] = templates.read_text(cfg.prompts.template)
    if cfg.prompts.writer_path:
        own["writer_path"] = model_digest(Path(cfg.prompts.writer_path)) if cfg.prompts.writer == "fixed" else ""
    return {"prompts": own, **stage_identity(cfg, "prompts")}


@functools.lru_cache(maxsize=4)
def model_digest(path: Path) -> str:
    """A digest of an HF directory: small files by content, weights by name and size (they may be 140 GB)."""
    if not (path / "config.json").is_file():
        raise CheckpointError(path, "no config.json", "an HF model directory", "correct prompts.writer_path")
    small = [p for p in sorted([*path.glob("*.json"), *path.glob("*.jinja")]) if p.is_file()]
    weights = [(p.name, p.stat().st_size) for p in sorted(path.glob("*.safetensors"))]
    return content_id([(p.name, files.file_digest(p)) for p in small], weights)


def _wanted(cfg: Config, iteration: int) -> int:
    """The prompts of an iteration; 0 = its part of the files."""
    return of_iteration(cfg.prompts.per_iteration, iteration, cfg.prompts.num_prompts)


def _before(cfg: Config, iteration: int) -> int:
    """The prompts of the iterations before it."""
    return sum(_wanted(cfg, t) for t in range(1, iteration))


def _check(cfg: Config) -> None:
    """Raises DataError where the seed stage is done and its prompts of files do not suffice for more iterations."""
    path = stage_directory(run_directory(cfg), Ref("seed", 0)) / FILE_PROMPTS
    if cfg.prompts.source == "file" and path.exists():
        found = list(read_records(path, Prompt))
        t = cfg.iterations
        part_of_iteration(found, t, t, _wanted(cfg, t), _before(cfg, t))


def _writer(ctx: Context) -> Path:
    return ctx.inputs["writer"] / "hf" if "writer" in ctx.inputs else Path(ctx.cfg.prompts.writer_path)


def _attempts(ctx: Context) -> dict[int, Attempt]:
    """The attempts in the parts, by index."""
    found: dict[int, Attempt] = {}
    for attempt in finished_records(ctx.dir, Attempt):
        found.setdefault(attempt.index, attempt)
    return found


def _pool(ctx: Context) -> PromptPool:
    """The pool before the first round. Raises DataError when there is no seed prompt."""
    section, seed_dir = ctx.cfg.prompts, ctx.inputs["seed"]
    files = [prompt.text for prompt in read_records(seed_dir / FILE_PROMPTS, Prompt)] if section.files else []
    ift = (example.prompt for example in read_records(seed_dir / "ift.jsonl", SftExample))
    seeds = list(dict.fromkeys([*ift, *files]))
    if not seeds:
        raise DataError(seed_dir / "ift.jsonl", "no seed prompt", "IFT examples, or prompts.files", "check seed.*")
    earlier = [
        prompt.text
        for iteration in range(1, ctx.iteration)
        for prompt in read_records(ctx.inputs[f"prompts{iteration}"] / OUTPUT, Prompt)
    ]
    held_out = held_out_texts(seed_dir)
    section = replace(section, num_prompts=_wanted(ctx.cfg, ctx.iteration) - len(_of_files(ctx)))
    return PromptPool(
        section, ctx.cfg.run.seed, ctx.iteration, seeds, earlier, Reader.of(section, templates.load_shots(section.template)),
        PromptFilter(section, [*seeds, *earlier], held_out), _forbidden(ctx.cfg, held_out),
    )  # fmt: skip


def _forbidden(cfg: Config, held_out: list[str]) -> Callable[[Sequence[str]], list[str]]:
    """Says of each text why it is held out, or ""; of the tiny world's texts by their question, of others by their words."""
    if world_inputs(cfg):
        is_held_out = forbidden_prompt(cfg)
        return lambda texts: ["held_out" if is_held_out(text) else "" for text in texts]
    return HeldOut(held_out, min(cfg.seed.rouge_max, cfg.prompts.rouge_max)).reasons


def _of_files(ctx: Context) -> list[Prompt]:
    """This iteration's prompts of the files. Raises DataError where prompts.source=file and they are too few."""
    section, t = ctx.cfg.prompts, ctx.iteration
    if section.source == "written":
        return []
    found = list(read_records(ctx.inputs["seed"] / FILE_PROMPTS, Prompt))
    wanted, before = _wanted(ctx.cfg, t), _before(ctx.cfg, t)
    if section.source == "both":
        return found[before : before + wanted]
    return part_of_iteration(found, t, ctx.cfg.iterations, wanted, before)


def _write(
    ctx: Context, engine: Engine, pool: PromptPool, todo: list[int], update: Callable[..., None]
) -> Iterator[Attempt]:  # fmt: skip
    """The attempts `todo` of the next round, as they finish. update: Progress.update of the state before."""
    cfg, section = ctx.cfg, ctx.cfg.prompts
    template = templates.load_shots(section.template)
    shown = {index: pool.demonstrations(index) for index in todo}

    def request(index: int) -> Request:
        text, start = few_shot_parts(template, shown[index])
        tokenizer = engine.tokenizer
        ids = () if tokenizer is None else tuple(chat_of(ctx, tokenizer).continued_ids(text, start))
        seed = item_seed(cfg.run.seed, "prompts", ctx.iteration, index)
        return Request(
            attempt_id(index), ids, 1, seed, section.temperature, section.top_p, section.max_tokens,
            stop=pool.reader.stops, text=text + start,
        )  # fmt: skip

    engine.expect(tokens_of(request(index)) for index in todo)
    for made, outcome in engine.stream(while_starting((request(index) for index in todo), engine, update)):
        yield _attempt(int(made.id), pool.num_rounds, shown[int(made.id)], outcome)


def _attempt(index: int, number: int, demonstrations: tuple[str, ...], outcome: Outcome) -> Attempt:
    if isinstance(outcome, Failure):
        return Attempt(attempt_id(index), index, number, "", "error", demonstrations, outcome.reason)
    (draw,) = outcome
    return Attempt(attempt_id(index), index, number, draw.text, draw.finish_reason, demonstrations, "", draw.num_tokens)


def _run(ctx: Context) -> None:
    assert ctx.num_shards == 1
    if ctx.cfg.prompts.source == "file":
        number = len(_of_files(ctx))
        ctx.progress.update(number, number, "prompts")
        return
    pool = _pool(ctx)
    wanted = pool.section.num_prompts
    writer = PartWriter(ctx)
    found, engine = _attempts(ctx), None
    started, before, num_tokens = time.monotonic(), len(found), 0
    try:
        while not (pool.complete or pool.exhausted):
            indices = pool.next_round()
            if todo := [index for index in indices if index not in found]:
                engine = engine or engine_for(ctx, "prompts", _writer(ctx))
                update = functools.partial(ctx.progress.update, len(pool.accepted), wanted, "prompts")
                for attempt in _write(ctx, engine, pool, todo, update):
                    writer.append(attempt)
                    found[attempt.index] = attempt
                    num_tokens += attempt.num_tokens
                    ctx.progress.update(len(pool.accepted), wanted, "prompts", attempts=len(found))
            pool.consume([found[index] for index in indices])
            ctx.progress.update(len(pool.accepted), wanted, "prompts", attempts=pool.num_attempts)
    finally:
        writer.close()
        if engine is not None:
            note_usage(ctx, engine, len(found) - before, num_tokens, time.monotonic() - started)
    if pool.exhausted:
        raise pool.shortfall(ctx.dir)


def _finalize(ctx: Context) -> dict[str, Any]:
    of_files = _of_files(ctx)
    if ctx.cfg.prompts.source == "file":
        write_records(ctx.dir / OUTPUT, of_files)
        return file_metrics(of_files)
    pool, found = _pool(ctx), _attempts(ctx)
    while not (pool.complete or pool.exhausted):
        indices = pool.next_round()
        if missing := [index for index in indices if index not in found]:
            raise DataError(ctx.dir, f"{len(missing)} attempts are missing", remedy="run the stage again")
        pool.consume([found[index] for index in indices])
    if pool.exhausted:
        raise pool.shortfall(ctx.dir)
    write_records(ctx.dir / OUTPUT, [*of_files, *pool.accepted])
    metrics = pool.metrics() | {"engine": usage_metrics(ctx)}
    if of_files:
        metrics |= {"of_files": len(of_files), "summary": f"{len(of_files)} of files; {metrics['summary']}"}
    return metrics


STAGE = Stage("prompts", "generate", _inputs, _identity, _run, _finalize, check=_check)
