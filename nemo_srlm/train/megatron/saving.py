"""When a training checkpoint is written: at once, or by a forked process while training goes on.

On the CPU the fork itself is the snapshot; on a GPU Megatron copies to host memory first. One save is under way at a
time, and a checkpoint gets its final name when all ranks have written it: until then the one before it is the newest.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue

from nemo_srlm.core.process import die_with_parent
from nemo_srlm.train.checkpoint_dir import FINAL, step_name
from nemo_srlm.train.megatron import checkpoint
from nemo_srlm.train.megatron.save_strategy import prepare_results_queue


def _write_until_parent_dies(parent: int, write: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    die_with_parent(parent)
    write(*args, **kwargs)


class Saver:
    """Training checkpoints of one stage. Every rank makes one and calls its methods at the same steps."""

    def __init__(self, directory: Path, keep_last: int, asynchronous: bool) -> None:
        self._directory, self._keep_last = directory, keep_last
        self._calls = AsyncCallsQueue() if asynchronous else None
        self._pending: tuple[str, Path] | None = None  # name and temporary directory of the save under way
        if asynchronous:  # now, while this process is small: it forks the queue's manager
            prepare_results_queue(asynchronous=True)

    def save(self, step: int, chunks: list[Any], optimizer: Any) -> None:
        """Writes, or begins to write, a checkpoint after `step` steps. Waits for the save under way first."""
        if self._calls is None:
            checkpoint.save_training(self._directory, step, chunks, optimizer, self._keep_last)
            return
        self.finish()
        name = step_name(step)
        temporary = checkpoint.make_temporary(self._directory, name)
        request = dist_checkpointing.save(
            checkpoint.training_state(step, chunks, optimizer), str(temporary), sharded_strategy=checkpoint.save_strategy(),
            validate_access_integrity=False, async_sharded_save=True,
        )  # fmt: skip
        if request.async_fn is not None:
            request = request._replace(async_fn=partial(_write_until_parent_dies, os.getpid(), request.async_fn))
        self._calls.schedule_async_request(request)
        self._pending = (name, temporary)

    def save_weights(
        self, chunks: list[Any], optimizer: Any, name: str = FINAL, notes: dict[str, Any] | None = None
    ) -> None:
        """Writes weights only, at once. Waits for the save under way first: both read results from one queue."""
        self.finish()
        checkpoint.save_model(self._directory, chunks, optimizer, name, notes)

    def poll(self) -> None:
        """Publishes the checkpoint under way if all ranks have written it. Call once per step."""
        self._finalize(blocking=False)

    def finish(self) -> None:
        """Waits for the save under way and publishes it."""
        self._finalize(blocking=True)

    def _finalize(self, blocking: bool) -> None:
        if self._calls is None or self._pending is None:
            return
        if self._calls.maybe_finalize_async_calls(blocking=blocking):
            name, temporary = self._pending
            self._pending = None
            checkpoint.publish(self._directory, name, temporary)
            checkpoint.keep_newest(self._directory, self._keep_last)
