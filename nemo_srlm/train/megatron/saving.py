"""Owns when a training checkpoint is written: at once, or by a forked process while training goes on.

The fork is the snapshot on the CPU; on a GPU Megatron copies to host memory first. One save is under way at a time, and a
checkpoint gets its name only when all ranks have written: until then the one before it is the newest.
"""

import multiprocessing
import os
import queue
from collections.abc import Callable
from functools import partial
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue

from nemo_srlm.core.process import die_with_parent
from nemo_srlm.train.checkpoint_dir import FINAL
from nemo_srlm.train.megatron import checkpoint
from nemo_srlm.train.megatron.writing import WriteHere


def _orphan_safe(parent: int, write: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    die_with_parent(parent)
    write(*args, **kwargs)


class Saver:
    """Training checkpoints of one stage. Every rank makes one and calls its methods at the same steps."""

    def __init__(self, directory: Path, keep_last: int, asynchronous: bool) -> None:
        self._directory, self._keep_last = directory, keep_last
        self._calls = AsyncCallsQueue() if asynchronous else None
        self._pending: tuple[str, Path] | None = None
        if asynchronous and not isinstance(filesystem_async._results_queue, queue.Queue | None):
            return  # an earlier stage of this process has made it
        if asynchronous:  # results come from another process; forked, Megatron's own would import everything again
            self._manager = SyncManager(ctx=multiprocessing.get_context("fork"))
            self._manager.start(die_with_parent, (os.getpid(),))
            filesystem_async._results_queue = self._manager.Queue()

    def save(self, step: int, chunks: list[Any], optimizer: Any) -> None:
        """Writes, or begins to write, a checkpoint after `step` steps; waits for the one under way."""
        if self._calls is None:
            checkpoint.save_training(self._directory, step, chunks, optimizer, self._keep_last)
            return
        self.finish()
        name = checkpoint.name_of(step)
        temporary = checkpoint.make_temporary(self._directory, name)
        request = dist_checkpointing.save(
            checkpoint.training_state(step, chunks, optimizer), str(temporary), sharded_strategy=WriteHere(),
            validate_access_integrity=False, async_sharded_save=True,
        )  # fmt: skip
        if request.async_fn is not None:
            request = request._replace(async_fn=partial(_orphan_safe, os.getpid(), request.async_fn))
        self._calls.schedule_async_request(request)
        self._pending = (name, temporary)

    def save_weights(self, chunks: list[Any], name: str = FINAL, notes: dict[str, Any] | None = None) -> None:
        """Writes weights only, at once; waits for the save under way, whose results would come out of the same queue."""
        self.finish()
        checkpoint.save_model(self._directory, chunks, name, notes)

    def poll(self) -> None:
        """Gives a checkpoint that has been written meanwhile its name. Once a step."""
        if self._pending is not None and self._calls.maybe_finalize_async_calls(blocking=False):
            self._publish()

    def finish(self) -> None:
        """Waits for the save under way."""
        if self._pending is not None:
            self._calls.maybe_finalize_async_calls(blocking=True)
            self._publish()

    def _publish(self) -> None:
        checkpoint.publish(self._directory, *self._pending)
        checkpoint.keep_newest(self._directory, self._keep_last)
        self._pending = None
