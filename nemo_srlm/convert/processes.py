"""Runs a conversion's share of work in one process or several, with one sum of finished bytes."""

import multiprocessing
import os
import queue
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from nemo_srlm.core.process import die_with_parent
from nemo_srlm.errors import CheckpointError, UserError

T, R = TypeVar("T"), TypeVar("R")
Report = Callable[[int, int], None]  # (bytes done, bytes in all)


class Work(Protocol[R]):
    """Does share `part` of `parts`; calls `advance(bytes)` as it goes. Must be picklable."""

    def __call__(self, part: int, parts: int, advance: Callable[[int], None]) -> R: ...


def nothing(done: int, total: int) -> None:
    """A Report for callers that show no progress."""


def prefetched(items: Iterable[T], load: Callable[[T], R]) -> Iterator[tuple[T, R]]:
    """(item, load(item)) in order, loading the next one in a thread while the caller writes the last."""
    with ThreadPoolExecutor(1) as pool:
        waiting: tuple[T, Any] | None = None
        for item in items:
            coming = (item, pool.submit(load, item))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = coming
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def spread(work: "Work[R]", processes: int, total: int, report: Report) -> list[R]:
    """The results of `work(part, processes, ...)` for every part. A UserError of any part is raised here."""
    report(0, total)
    done = 0
    if processes == 1:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            report(done, total)

        return [work(0, 1, advance)]
    spawn = multiprocessing.get_context("spawn")
    messages: Any = spawn.Queue()
    workers = [
        spawn.Process(target=_worker, args=(work, i, processes, messages, os.getpid()), daemon=True)
        for i in range(processes)
    ]
    results: dict[int, R] = {}
    try:
        for worker in workers:
            worker.start()
        while len(results) < processes:
            try:
                kind, part, value = messages.get(timeout=1.0)
            except queue.Empty:
                dead = [i for i, w in enumerate(workers) if w.exitcode not in (None, 0) and i not in results]
                if dead:
                    raise CheckpointError(
                        f"conversion process {dead[0]}", f"ended with code {workers[dead[0]].exitcode}",
                        remedy="look for a kill by the system, often for memory; fewer processes need less",
                    ) from None  # fmt: skip
                continue
            if kind == "done":
                done += value
                report(done, total)
            elif kind == "result":
                results[part] = value
            elif kind == "user":
                raise _rebuilt(*value)
            else:
                raise RuntimeError(f"conversion process {part} failed:\n{value}")
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
            worker.join()
    return [results[i] for i in range(processes)]


def _worker(work: "Work[R]", part: int, parts: int, messages: Any, parent: int) -> None:
    die_with_parent(parent)  # a killed conversion leaves nobody behind who writes into the next one's directory
    try:
        messages.put(("result", part, work(part, parts, lambda count: messages.put(("done", part, count)))))
    except UserError as error:
        messages.put(("user", part, (type(error), error.where, error.found, error.expected, error.remedy)))
    except OSError as error:
        messages.put(("user", part, (OSError, error.errno, error.strerror)))
    except Exception:
        messages.put(("error", part, traceback.format_exc()))


def _rebuilt(kind: type[Exception], *args: Any) -> Exception:
    return kind(*args)
