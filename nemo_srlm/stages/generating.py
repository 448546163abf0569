"""What the generation stages share: feeding one engine with the items that are left, and writing down what comes back."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nemo_srlm.config import Config, identity
from nemo_srlm.engine import Engine, Outcome, Request
from nemo_srlm.records import Record
from nemo_srlm.stage import Context
from nemo_srlm.store import PartWriter, remaining

T = TypeVar("T")


def engine_identity(cfg: Config) -> dict[str, Any]:
    """The part of a generation stage's identity that they have in common."""
    return {"generate": identity(cfg.generate), "chat": identity(cfg.chat), "seed": cfg.run.seed}


def open_engine(ctx: Context, name: str) -> Engine:
    """This process's engine for the exported model of the input called `name`."""
    from nemo_srlm import engine

    return engine.shared(ctx.inputs[name] / "hf", ctx.cfg)


def run_requests(
    ctx: Context,
    items: Iterable[tuple[str, T]],
    engine: Callable[[], Engine],
    request: Callable[[Engine, str, T], Request],
    records: Callable[[T, Outcome], Sequence[Record]],
    unit: str,
) -> None:
    """Generates what is left of this shard's items, appending the records of each as it finishes.

    `request` is asked when the engine has room for it. An item whose `records` are several is finished when the part
    holds the LAST of them: the item's id must be that record's.
    """
    todo, total = remaining(ctx, items)
    done = total - len(todo)
    ctx.progress.update(done, total, unit)
    if not todo:
        return
    started, num_tokens = time.monotonic(), 0
    running, by_id = engine(), dict(todo)
    writer = PartWriter(ctx)
    try:
        for finished, outcome in running.stream(request(running, item_id, item) for item_id, item in todo):
            for record in records(by_id.pop(finished.id), outcome):
                writer.append(record)
            done += 1
            num_tokens += sum(c.num_tokens for c in outcome) if isinstance(outcome, list) else 0
            ctx.progress.update(done, total, unit, tokens_per_s=round(num_tokens / (time.monotonic() - started)))
    finally:
        writer.close()


def error_kinds(errors: Iterable[str]) -> dict[str, int]:
    """How many items failed, by kind of reason: too_long, refused, engine, ..."""
    return dict(sorted(Counter(error.partition(":")[0] for error in errors if error).items()))


def share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def jsonl(ctx: Context, name: str, file: str) -> Path:
    return ctx.inputs[name] / file
