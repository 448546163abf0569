"""Start and end of a training process: device, process groups, Megatron's parallel state, random seeds."""

import datetime
import os

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from nemo_srlm.config.fp8 import check_fp8
from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection
from nemo_srlm.core.records import item_seed
from nemo_srlm.errors import ConfigError
from nemo_srlm.train.layout import check_kernels, check_layout, check_precision, world_size
from nemo_srlm.train.megatron import accelerator

TIMEOUT = datetime.timedelta(minutes=30)


def initialize(model: ModelSection, parallel: ParallelSection, precision: PrecisionSection) -> accelerator.Accelerator:
    """Joins the process group (torchrun's environment, or a world of one) and sets Megatron's parallel state.

    Raises ConfigError when the layout is impossible, the world has another size, or this machine lacks the precision,
    UserError when it has a GPU and no Transformer Engine.
    """
    check_layout(model, parallel)
    check_fp8(model, parallel, precision)
    accelerator.require_kernels()
    device = accelerator.prepare(parallel.threads)
    gpu = device.kind == "cuda"
    capability = torch.cuda.get_device_capability() if gpu else None
    check_precision(precision, transformer_engine=accelerator.has_transformer_engine(), capability=capability)
    check_kernels(parallel, precision, transformer_engine=accelerator.has_transformer_engine())
    if not dist.is_initialized():
        for name, value in (("MASTER_ADDR", "127.0.0.1"), ("RANK", "0"), ("WORLD_SIZE", "1")):
            os.environ.setdefault(name, value)
        if "MASTER_PORT" not in os.environ:  # a world of one may take any free port
            os.environ["MASTER_PORT"] = "0" if os.environ["WORLD_SIZE"] == "1" else "29400"
        dist.init_process_group(device.backend, timeout=TIMEOUT)
    if dist.get_world_size() != world_size(parallel):
        raise ConfigError(
            "parallel.processes", f"{parallel.nodes} x {parallel.processes}, but {dist.get_world_size()} were started",
            "as many processes as parallel.nodes x parallel.processes",
        )  # fmt: skip
    if parallel_state.model_parallel_is_initialized():
        destroy_groups()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline if parallel.virtual_pipeline > 1 else None,
        context_parallel_size=parallel.context,
        create_gloo_process_groups=gpu,  # on the CPU the groups are gloo already
    )
    # delayed FP8 scales are pickled; a training without FP8 meets them, too, in what an earlier stage of ours has saved
    os.environ.setdefault("NVTE_ALLOW_UNSAFE_PICKLE_EXTRA_STATE", "1")
    _make_generators(recorded=precision.cuda_graphs != "none" and accelerator.has_transformer_engine())
    seed_everything(0, 0)
    return device


def _make_generators(recorded: bool) -> None:
    """Megatron's random states of this job. `recorded`: those of Transformer Engine, which alone can be part of a CUDA graph."""
    tensor_parallel.random.initialize_rng_tracker(use_te_rng_tracker=recorded, force_reset=True)


def seed_everything(seed: int, step: int) -> None:
    """Sets the random state of `step`, a function of the seed, the step and this rank's place in the layout.

    Called before every step, so there is no random state to save: a resumed step has the same dropout masks. Replicas and
    pipeline stages differ. Tensor-parallel ranks agree outside of the sharded regions and differ inside.
    """
    place = parallel_state.get_data_parallel_rank(with_context_parallel=True)
    stage = parallel_state.get_pipeline_model_parallel_rank()
    value = item_seed(seed, step, place, stage)
    torch.default_generator.manual_seed(value)
    tensor_parallel.model_parallel_cuda_manual_seed(value)


def destroy_groups() -> None:
    """Destroys Megatron's process groups; Megatron itself only drops its references to them.

    A gloo group that is not destroyed keeps its threads, and those of a half-closed one spin: after a dozen layouts in
    one process there were a thousand, and they used all cores.
    """
    parallel_state.destroy_model_parallel()
    for group in list(dist.distributed_c10d._world.pg_map):
        if group is not dist.group.WORLD:
            dist.destroy_process_group(group)


def shutdown() -> None:
    """Destroys all process groups: the end of this process's distributed work."""
    destroy_groups()
    if dist.is_initialized():
        dist.destroy_process_group()
