"""Generation in a stage: the engine, requests for the items that remain, records appended as they finish, usage."""

import functools
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from nemo_srlm.config.fields import identity
from nemo_srlm.config.generation import ChatSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core.parts import PartWriter, remaining, repair
from nemo_srlm.core.records import Record
from nemo_srlm.core.stage import Context
from nemo_srlm.data.chat import Chat, user
from nemo_srlm.data.tokenizer import Tokenizer
from nemo_srlm.errors import DataError
from nemo_srlm.generate.requests import Engine, Outcome, Request
from nemo_srlm.generate.vllm_engine import VllmEngine

T = TypeVar("T")


def engine_identity(cfg: Config) -> dict[str, Any]:
    """The part of the identity that every generation stage has."""
    return {"generate": identity(cfg.generate), "chat": identity(cfg.chat), "seed": cfg.run.seed}


def open_engine(ctx: Context, name: str) -> VllmEngine:
    """The worker's engine for the exported model of the input `name`."""
    from nemo_srlm.generate import vllm_engine

    return vllm_engine.shared(ctx.slot, ctx.inputs[name] / "hf", ctx.cfg)


def engine_for(ctx: Context, stage: str, model: Path) -> Engine:
    """The engine of `stage`: the endpoint where api.stages names it, else the worker's vLLM for the HF directory `model`."""
    if stage in ctx.cfg.api.stages:
        from nemo_srlm.generate.openai_engine import OpenAIEngine

        return OpenAIEngine(ctx.cfg.api)
    from nemo_srlm.generate import vllm_engine

    return vllm_engine.shared(ctx.slot, model, ctx.cfg)


def stage_identity(cfg: Config, stage: str) -> dict[str, Any]:
    """`engine_identity` of a stage that may run on an endpoint."""
    return engine_identity(cfg) | ({"api": identity(cfg.api)} if stage in cfg.api.stages else {})


def thinking_identity(cfg: Config) -> dict[str, str]:
    """How the text of a reasoning judge is read: of a stage that does not have all of the section judge in its identity."""
    return {"thinking_end": cfg.judge.thinking_end} if cfg.judge.thinking_end else {}


@functools.lru_cache(maxsize=4)
def _chat(tokenizer: Tokenizer, prefix: str, suffix: str, format: str, arguments: str) -> Chat:
    return Chat.of(tokenizer, ChatSection(prefix, suffix, format, json.loads(arguments)))


def chat_of(ctx: Context, tokenizer: Tokenizer) -> Chat:
    """The chat format of the model that a tokenizer belongs to: the run's own for the models that the run made.

    A directory that a setting names (prompts.writer_path, ...) has its own: its chat template where it has one.
    """
    section = ctx.cfg.chat
    directory = tokenizer.directory.resolve()
    if not any(directory.is_relative_to(made.resolve()) for made in ctx.inputs.values()):
        section = replace(section, format="model" if tokenizer.chat_template else "strings")
    arguments = json.dumps(section.arguments, sort_keys=True)
    return _chat(tokenizer, section.user_prefix, section.user_suffix, section.format, arguments)


def chat_ids(ctx: Context, engine: Engine, text: str, system: str = "") -> tuple[int, ...]:
    """One user turn, maybe after a system message, as token ids; () for an engine that tokenizes by itself.

    A chat format without a place for a system message gets it in front of the user's.
    """
    if engine.tokenizer is None:
        return ()
    chat = chat_of(ctx, engine.tokenizer)
    if not system:
        return tuple(chat.prompt_ids(text))
    try:
        return tuple(chat.next_turn_ids([{"role": "system", "content": system}, user(text)]))
    except DataError:
        return tuple(chat.prompt_ids(f"{system}\n\n{text}"))


def run_requests(
    ctx: Context,
    items: Iterable[tuple[str, T]],
    engine: Callable[[], Engine],
    request: Callable[[Engine, str, T], Request],
    records: Callable[[T, Outcome], Sequence[Record]],
    unit: str,
) -> None:
    """Generates the remaining items of this shard, (id, item) each, appending the records of each as it finishes.

    `request` is called when the engine has room. An item with several records is finished when the part has the LAST
    of them: the item's id must be that record's. `unit` names the items in the progress.
    """
    todo, total = remaining(ctx, items)
    done = total - len(todo)
    ctx.progress.update(done, total, unit)
    if not todo:
        return
    started, num_tokens = time.monotonic(), 0
    running, by_id, done_before = engine(), dict(todo), done
    writer = PartWriter(ctx)
    running.expect(tokens_of(request(running, item_id, item)) for item_id, item in todo)
    each = (request(running, item_id, item) for item_id, item in todo)
    asked = while_starting(each, running, functools.partial(ctx.progress.update, done, total, unit))
    try:
        for finished, outcome in running.stream(asked):
            for record in records(by_id.pop(finished.id), outcome):
                writer.append(record)
            done += 1
            num_tokens += sum(c.num_tokens for c in outcome) if isinstance(outcome, list) else 0
            ctx.progress.update(done, total, unit, tokens_per_s=round(num_tokens / (time.monotonic() - started)))
    finally:
        writer.close()
        note_usage(ctx, running, done - done_before, num_tokens, time.monotonic() - started)


def while_starting(requests: Iterator[Request], engine: Engine, update: Callable[..., None]) -> Iterator[Request]:
    """The requests. While an engine that is not ready starts, from the first of them to the second, the progress says so.

    update: Progress.update of the state before. Call it after `expect` and before `stream`.
    """
    return requests if engine.ready else _while_starting(requests, update)


def _while_starting(requests: Iterator[Request], update: Callable[..., None]) -> Iterator[Request]:
    update(engine="starting")
    yield from itertools.islice(requests, 1)
    update()
    yield from requests


def tokens_of(request: Request) -> int:
    """The largest number of tokens of a request, prompt and completion."""
    return len(request.prompt_ids) + request.max_tokens


def note_usage(ctx: Context, engine: Engine, items: int, num_tokens: int, seconds: float) -> None:
    """Appends one line per attempt of a shard: items, tokens, seconds. A log, not a record: it differs between runs."""
    counted = {"items": items, "tokens": num_tokens, "seconds": round(seconds, 3), **engine.usage()}
    path = ctx.dir / "logs" / f"usage-{ctx.shard:05d}.jsonl"
    path.parent.mkdir(exist_ok=True)
    repair(path)
    with path.open("a", encoding="utf-8") as f:
        f.write(json.dumps(counted) + "\n")


def usage_metrics(ctx: Context) -> dict[str, float]:
    """The sums over all shards and attempts, and tokens per second of one engine after its start.

    An endpoint's tokens are those that it reports (and charges for). A last line that a full disk has cut short is not
    counted: nobody would miss what a log says, and no attempt would write it again.
    """
    total: Counter[str] = Counter()
    for path in sorted((ctx.dir / "logs").glob("usage-*.jsonl")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            if line.endswith("\n"):
                total.update(json.loads(line))
    tokens, seconds = total["tokens"] or total["completion_tokens"], total["seconds"] - total["start_seconds"]
    return dict(total) | {"tokens_per_s": tokens / seconds if seconds else 0.0}
