"""How a rank writes its share of a checkpoint: by the process that saves, or by the one fork of an asynchronous save.

Two defaults of Megatron are replaced here:
- It forks one more process that writes, and starts it by a message over a pipe. If the saving process is killed before
  the message, the writer waits forever with a copy of the model; if the writer is killed, the saving process waits forever.
- It takes the queue for results from a spawned manager process, which imports the whole program once more. The queue is
  a variable of a Megatron module; `prepare_results_queue` alone sets it.
"""

import multiprocessing
import os
import queue
from functools import partial
from multiprocessing.managers import SyncManager
from typing import Any

from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

from nemo_srlm.core.process import die_with_parent


def prepare_results_queue(asynchronous: bool) -> None:
    """Makes the queue that Megatron reads the results of a save from, unless this process has a suitable one.

    A synchronous save never leaves its process. Results of an asynchronous one come from a fork, through a manager
    process that ends with this one; that queue serves synchronous saves too.
    """
    current = filesystem_async._results_queue
    if asynchronous and isinstance(current, queue.Queue | None):
        manager = SyncManager(ctx=multiprocessing.get_context("fork"))
        manager.start(die_with_parent, (os.getpid(),))
        filesystem_async._results_queue = manager.Queue()  # it holds the manager
    elif current is None:
        filesystem_async._results_queue = queue.Queue()


class InProcessSave(TorchDistSaveShardedStrategy):  # type: ignore[misc]  # megatron is not typed
    """Megatron's torch_dist format with one file per rank, written by the process that executes the request."""

    def __init__(self) -> None:
        super().__init__("torch_dist", 1, thread_count=1)
        prepare_results_queue(asynchronous=False)

    def async_save(self, state: Any, directory: Any, *strategy: str, **kwargs: Any) -> AsyncRequest:
        # `strategy`: who writes, an argument since megatron-core 0.17. Its default is a package that is not needed here.
        request = super().async_save(state, directory, *("mcore" for _ in strategy), **kwargs)
        if request.async_fn is None:  # nothing to write on this rank
            return request
        return request._replace(async_fn=partial(_write, *request.async_fn.args))


def _write(transforms: list[Any], use_msc: bool, rank: int, buckets: list[Any], results: Any) -> None:
    """Puts {bucket: what was written}, or the error, into `results`, as Megatron's write_preloaded_data_multiproc does."""
    answers: queue.Queue[tuple[int, Any]] = queue.Queue()
    counts: queue.Queue[int] = queue.Queue()
    written = {}
    for i, bucket in enumerate(buckets):
        counts.put(i)
        filesystem_async.FileSystemWriterAsync.write_preloaded_data(
            transforms, i, bucket, answers, counts, use_fsync=True, use_msc=use_msc
        )  # fmt: skip
        written[i] = answers.get()[1]
        if isinstance(written[i], Exception):
            results.put(written[i])
            return
    results.put(written)
