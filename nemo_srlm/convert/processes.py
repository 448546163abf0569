"""Runs a conversion in one process or several, with one progress count of all of them."""

import multiprocessing
import os
import queue
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from nemo_srlm.core.process import die_with_parent
from nemo_srlm.errors import CheckpointError, KilledError, UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)
Report = Callable[[int, int], None]  # (parameters done, parameters in all)


class Work(Protocol[Result_co]):
    """Does part `rank` of `world_size`; calls `advance(parameters)` as it goes. Must be picklable."""

    def __call__(self, rank: int, world_size: int, advance: Callable[[int], None]) -> Result_co: ...


def no_report(done: int, total: int) -> None:
    """A Report for callers that show no progress."""


def prefetch(items: Iterable[Item], load: Callable[[Item], Result]) -> Iterator[tuple[Item, Result]]:
    """(item, load(item)) in order; a thread loads the next item while the caller uses the current one."""
    with ThreadPoolExecutor(1) as pool:
        current: tuple[Item, Future[Result]] | None = None
        for item in items:
            following = (item, pool.submit(load, item))
            if current is not None:
                yield current[0], current[1].result()
            current = following
        if current is not None:
            yield current[0], current[1].result()


def run_parallel(work: Work[Result], processes: int, total: int, report: Report) -> list[Result]:
    """The results of `work(rank, processes, ...)` for every rank, in this process when `processes` is 1.

    `total`: parameters in all, for `report`. A UserError or OSError of any process is raised here. KilledError when a
    process dies.
    """
    if processes < 1:
        raise CheckpointError("processes", f"{processes}", "at least 1")
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
    results: dict[int, Result] = {}
    try:
        for worker in workers:
            worker.start()
        while len(results) < processes:
            try:
                kind, rank, value = messages.get(timeout=1.0)
            except queue.Empty:
                dead = [i for i, w in enumerate(workers) if w.exitcode not in (None, 0) and i not in results]
                if dead:
                    raise KilledError(
                        f"conversion process {dead[0]}", f"ended with code {workers[dead[0]].exitcode}",
                        remedy="look for a kill by the system, often for memory; fewer processes need less",
                    ) from None  # fmt: skip
                continue
            if kind == "done":
                done += value
                report(done, total)
            elif kind == "result":
                results[rank] = value
            elif kind == "raise":
                error, arguments = value
                raise error(*arguments)
            else:
                raise RuntimeError(f"conversion process {rank} failed:\n{value}")
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
            worker.join()
    return [results[i] for i in range(processes)]


def _worker(work: Work[Any], rank: int, world_size: int, messages: Any, parent: int) -> None:
    die_with_parent(parent)  # else a process of a killed conversion could write into the next one's directory
    try:
        result = work(rank, world_size, lambda count: messages.put(("done", rank, count)))
        messages.put(("result", rank, result))
    except UserError as error:  # as its parts: an exception of several arguments does not survive pickling
        messages.put(("raise", rank, (type(error), (error.where, error.found, error.expected, error.remedy))))
    except OSError as error:
        messages.put(("raise", rank, (OSError, (error.errno, error.strerror))))
    except Exception as error:
        messages.put(("crash", rank, "".join(traceback.format_exception(error))))
