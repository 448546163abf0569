"""What this rank does of the work that only some ranks do. Call `setup.initialize` first."""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist
from megatron.core import parallel_state

T = TypeVar("T")


def is_main() -> bool:
    """Whether this rank writes the stage's files."""
    return dist.get_rank() == 0


def of_main(find: Callable[[], T]) -> T:
    """What rank 0 finds, on every rank. A network file system may show a node a folder as it was a minute ago, and ranks that
    resume from different checkpoints wait for each other for ever."""
    found = [find() if is_main() else None]
    dist.broadcast_object_list(found, src=0)
    return found[0]  # type: ignore[return-value]  # None was replaced


def replica() -> int:
    """Number of this rank's data-parallel replica."""
    return int(parallel_state.get_data_parallel_rank())


def holds_metrics() -> bool:
    """Whether the metrics that this rank's loss returns count: last pipeline stage, first rank of its tensor group."""
    return bool(
        parallel_state.is_pipeline_last_stage(ignore_virtual=True)
        and parallel_state.get_tensor_model_parallel_rank() == 0
    )


def is_first_context_rank() -> bool:
    """Whether this rank counts what every rank of its context-parallel group has."""
    return bool(parallel_state.get_context_parallel_rank() == 0)
