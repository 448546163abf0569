"""What this rank does of the work that only some ranks do. Call `setup.initialize` first."""

import torch.distributed as dist
from megatron.core import parallel_state


def is_main() -> bool:
    """Whether this rank writes the stage's files."""
    return dist.get_rank() == 0


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
