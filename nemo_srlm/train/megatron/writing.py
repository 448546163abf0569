"""Owns which process writes a rank's share of a checkpoint: the one that saves, or the one fork of an asynchronous save.

Megatron forks one more writer and tells it over a pipe what to do. When the saving process is killed before it has told,
the writer waits forever with a copy of the model; when the writer is killed, the saving process waits forever.
"""

import queue
from functools import partial
from typing import Any

from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy


class WriteHere(TorchDistSaveShardedStrategy):
    """Megatron's torch_dist strategy with one file a rank, written by whoever executes the request."""

    def __init__(self) -> None:
        super().__init__("torch_dist", 1, thread_count=1)

    def async_save(self, *args: Any, **kwargs: Any) -> AsyncRequest:
        request = super().async_save(*args, **kwargs)
        if request.async_fn is None:  # nothing to write on this rank
            return request
        return request._replace(async_fn=partial(_write, *request.async_fn.args))


def _write(transforms: list[Any], use_msc: bool, rank: int, buckets: list[Any], results: Any) -> None:
    """Puts {bucket: what was written} into `results`, or the error that ended it: write_preloaded_data_multiproc's."""
    told: queue.Queue[tuple[int, Any]] = queue.Queue()
    counts: queue.Queue[int] = queue.Queue()
    written = {}
    for i, bucket in enumerate(buckets):
        counts.put(i)
        FileSystemWriterAsync.write_preloaded_data(
            transforms, i, bucket, told, counts, use_fsync=True, use_msc=use_msc
        )  # fmt: skip
        written[i] = told.get()[1]
        if isinstance(written[i], Exception):
            results.put(written[i])
            return
    results.put(written)
