"""The optimizer and its schedule: TrainSection -> Megatron's DDP, optimizer and parameter scheduler."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.transformer.module import Float16Module

from nemo_srlm.config.training import ParallelSection, PrecisionSection, TrainSection
from nemo_srlm.train.schedule import warmup_steps


def can_overlap() -> bool:
    """Whether collectives run while computation goes on. NCCL's do; gloo has no group of asynchronous ones."""
    return torch.cuda.is_available()


def wrap(chunks: list[GPTModel], parallel: ParallelSection, precision: PrecisionSection) -> list[Any]:
    """The model chunks in half precision (bf16 only) and Megatron's DDP, with the hooks that the schedules call."""
    config = chunks[0].config
    inner = [Float16Module(config, c) if precision.dtype == "bf16" else c for c in chunks]
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=precision.grad_reduce_in_fp32,
        overlap_grad_reduce=can_overlap(),
        overlap_param_gather=can_overlap() and parallel.distributed_optimizer,
        align_param_gather=len(chunks) > 1,  # then the interleaved schedule starts the gather, by param_sync_func below
        use_distributed_optimizer=parallel.distributed_optimizer,
        fp8_param_gather=precision.fp8_param_gather,
        average_in_collective=False,
        check_for_nan_in_grad=False,  # the trainer checks the global norm instead
    )
    with _side_stream():
        wrapped = [
            DistributedDataParallel(config=config, ddp_config=ddp, module=m, disable_bucketing=i > 0)
            for i, m in enumerate(inner)
        ]
    config.finalize_model_grads_func = finalize_model_grads
    if ddp.overlap_grad_reduce:
        config.no_sync_func = [m.no_sync for m in wrapped] if len(wrapped) > 1 else wrapped[0].no_sync
        config.grad_sync_func = [m.start_grad_sync for m in wrapped] if len(wrapped) > 1 else wrapped[0].start_grad_sync
    if ddp.overlap_param_gather and ddp.align_param_gather:
        config.param_sync_func = [m.start_param_sync for m in wrapped]
    return wrapped


@contextmanager
def _side_stream() -> Iterator[None]:
    """Gradients are accumulated on the stream on which DDP registers its hooks; a CUDA graph cannot contain the default one."""
    if not torch.cuda.is_available():
        yield
        return
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        yield
    torch.cuda.current_stream().wait_stream(side)


def build_optimizer(
    wrapped: list[Any], section: TrainSection, parallel: ParallelSection, precision: PrecisionSection
) -> Any:
    """AdamW with decoupled weight decay on matrices only (Megatron's rule: no decay for biases and vectors)."""
    gpu = torch.cuda.is_available()
    config = OptimizerConfig(
        optimizer="adam",
        lr=section.lr,
        min_lr=section.min_lr,
        weight_decay=section.weight_decay,
        adam_beta1=section.beta1,
        adam_beta2=section.beta2,
        adam_eps=section.eps,
        bf16=precision.dtype == "bf16",
        params_dtype=torch.bfloat16 if precision.dtype == "bf16" else torch.float32,
        fp8_recipe=precision.fp8_recipe
        if precision.fp8_param_gather
        else None,  # asked for where weights are FP8 alone
        use_distributed_optimizer=parallel.distributed_optimizer,
        overlap_param_gather=can_overlap() and parallel.distributed_optimizer,
        clip_grad=section.clip_grad,
    )
    optimizer = get_megatron_optimizer(config, wrapped, use_gloo_process_groups=gpu)
    if not gpu:
        for group in optimizer.param_groups:
            group["fused"] = True  # torch's one-kernel AdamW; Megatron asks for its slow loop
    return optimizer


def build_scheduler(optimizer: Any, section: TrainSection, total_steps: int) -> OptimizerParamScheduler:
    """Linear warm-up from 0, then cosine, linear or constant down to min_lr at `total_steps`."""
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=section.lr,
        min_lr=section.min_lr,
        lr_warmup_steps=warmup_steps(section, total_steps),
        lr_decay_steps=total_steps,
        lr_decay_style=section.schedule,
        start_wd=section.weight_decay,
        end_wd=section.weight_decay,
        wd_incr_steps=total_steps,
        wd_incr_style="constant",
    )


def gradient_norm(optimizer: Any) -> float:
    """Copies gradients to the main parameters and returns their global norm, nan or inf if one is not finite."""
    found_inf = optimizer.prepare_grads()
    return math.inf if found_inf else float(optimizer.get_grad_norm())


def clip_and_step(optimizer: Any, norm: float) -> None:
    """Clips by the global `norm` and updates the parameters. Call `gradient_norm` first."""
    for inner in optimizer.chained_optimizers:
        parameters = inner.get_parameters()
        if inner.config.clip_grad > 0.0 and parameters:
            clip_grad_by_total_norm_fp32(parameters, max_norm=inner.config.clip_grad, total_norm=norm)
    assert optimizer.step_with_ready_grads()
