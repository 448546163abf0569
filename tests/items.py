"""Runs the items of a stage one after another: what stages with a generation engine do in stages/common, without one."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from nemo_srlm.core.parts import PartWriter, remaining
from nemo_srlm.core.records import Record
from nemo_srlm.core.stage import Context

T = TypeVar("T")


def run_items(
    ctx: Context,
    items: Iterable[tuple[str, T]],
    process: Callable[[list[tuple[str, T]]], Iterable[Record]],
    batch: int,
    unit: str = "items",
) -> None:
    """Runs the unfinished items of this shard in batches and appends each record as `process` yields it."""
    todo, total = remaining(ctx, items)
    done = total - len(todo)
    ctx.progress.update(done, total, unit)
    writer = PartWriter(ctx)
    try:
        for start in range(0, len(todo), batch):
            for record in process(todo[start : start + batch]):
                writer.append(record)
                done += 1
                ctx.progress.update(done, total, unit)
    finally:
        writer.close()
