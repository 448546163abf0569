"""Weights that exist in FP8 alone (precision.fp8_param_gather): where their exact values come from and go to.

Megatron takes the optimizer's float32 weights from what Transformer Engine keeps of the values before FP8 rounding. It
keeps them from the model's construction, and models here get their weights afterwards. So whoever fills a weight replaces
what is kept (`fill`, `keep`). A checkpoint gets the optimizer's weights, rounded to bf16 as in any other training: the next
stage, the export and a resumed training would otherwise start from FP8 values, and an update of 1e-6 would be lost.
"""

from collections.abc import Mapping
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.fp8_utils import is_float8tensor
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor

from nemo_srlm.train.megatron import optimizer_state


def fill(parameter: Tensor, values: Tensor) -> None:
    """Gives a weight these values, rounded as it stores them, and the optimizer that will be built the exact ones."""
    parameter.copy_(values)
    if is_float8tensor(parameter):
        _keep(parameter, values)


def keep(chunk: torch.nn.Module, loaded: Mapping[str, Any]) -> None:
    """The optimizer that will be built for `chunk` begins with the values `loaded` into it, not with their FP8 rounding."""
    for name, parameter in chunk.named_parameters():
        if is_float8tensor(parameter):
            _keep(parameter, loaded[name])


def _keep(parameter: Any, values: Tensor) -> None:
    exact = values.detach().cpu()  # the GPU has room for the rounded weights
    parameter.clear_high_precision_init_val()  # those of the construction
    parameter.get_high_precision_init_val = lambda: exact
    parameter.clear_high_precision_init_val = lambda: None


def forget(chunks: list[Any]) -> None:
    """Frees the exact values. Call it when the optimizer is built: it takes those of its own part of the weights only."""
    for chunk in chunks:
        for parameter in chunk.parameters():
            if is_float8tensor(parameter):
                parameter.get_high_precision_init_val = lambda: None


def to_save(state: dict[str, Any], optimizer: Any) -> dict[str, Any]:
    """The sharded weights `state`; where weights exist in FP8 alone, the optimizer's float32 ones in bf16 in place of them.

    Each replica has the ranges that it owns, of the layers kept in bf16 too: the parts of a stacked tensor on all ranks
    are of one kind. Without FP8 weights `state` itself; only then `optimizer` may be None.
    """
    weights = [sharded for part in state.values() for sharded in part.values() if _is_weight(sharded)]
    if optimizer is None or not _gathers_fp8(optimizer):
        assert not any(is_float8tensor(sharded.data) for sharded in weights), "FP8 weights need their optimizer"
        return state
    (inner,) = optimizer.chained_optimizers
    starts = dict(optimizer_state.owned(inner))
    exact: list[ShardedTensor] = []
    for sharded in weights:
        if (parameter := sharded.data) in starts:
            values = inner._get_main_param_and_optimizer_states(parameter)["param"].detach().to(parameter.dtype)
            pieces = optimizer_state.pieces_of(sharded, parameter)
            exact += optimizer_state.shards("", pieces, starts[parameter], values)
    kept = {chunk: {n: v for n, v in part.items() if not _is_weight(v)} for chunk, part in state.items()}
    return kept | {"exact": dict(enumerate(exact))}  # where a tensor stands in the dict is not recorded, its name is


def _is_weight(sharded: Any) -> bool:
    return isinstance(sharded, (ShardedTensor, ShardedTensorFactory)) and isinstance(sharded.data, torch.nn.Parameter)


def _gathers_fp8(optimizer: Any) -> bool:
    """By the setting, which is the same on every rank: a pipeline stage may have no FP8 weight of its own."""
    inner = optimizer.chained_optimizers[0]
    return isinstance(inner, DistributedOptimizer) and bool(inner.ddp_config.fp8_param_gather)
