"""Items of a stage that need no engine: done by threads of this process, each record appended as it is finished."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from nemo_srlm.core.parts import PartWriter, remaining
from nemo_srlm.core.records import Record
from nemo_srlm.core.stage import Context

T = TypeVar("T")


def run_items(
    ctx: Context, items: Iterable[tuple[str, T]], work: Callable[[T], Record], workers: int, unit: str
) -> None:
    """Does the remaining items of this shard, (id, item) each, `workers` at a time. An item's record has its id."""
    todo, total = remaining(ctx, items)
    done = total - len(todo)
    ctx.progress.update(done, total, unit)
    writer, waiting = PartWriter(ctx), iter(todo)
    pool = ThreadPoolExecutor(workers)
    running: set[Future[Record]] = set()
    try:
        while True:
            # no more than twice what runs, so that an interrupt does not wait for a long queue
            while len(running) < 2 * workers and (following := next(waiting, None)) is not None:
                running.add(pool.submit(work, following[1]))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                writer.append(future.result())
                done += 1
            ctx.progress.update(done, total, unit)
    finally:
        pool.shutdown(cancel_futures=True)
        writer.close()
