"""The optimizer's part of a training checkpoint: what a rank writes of it, and how it is restored.

With the distributed optimizer a replica owns flat ranges of parameters. Megatron's `fully_reshardable` format gathers
whole buffers on every replica before it writes them (12 bytes per parameter of the rank's shard of the model), and its
`dp_reshardable` format writes the ranges but loads under the same tensor and pipeline parallelism only. Here the ranges
themselves are written under the names and shapes of `fully_reshardable`: a range of a matrix is at most three rectangles.
So no rank gathers anything, the checkpoint loads under any layout, and the tensors are read in place.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.utils import extract_sharded_tensors_and_factories
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor

FORMAT = "fully_reshardable"  # whose names and shapes the checkpoint has
STATE_NAMES = ("param", "exp_avg", "exp_avg_sq")  # "param": the float32 weights
Rectangle = tuple[tuple[int, ...], tuple[int, ...]]  # offset, sizes


def rectangles(shape: Sequence[int], start: int, stop: int) -> Iterator[Rectangle]:
    """Elements start .. stop-1 of a tensor in row-major order as rectangles, in that order: 1, or up to 3 per axis."""
    if start >= stop:
        return
    if len(shape) == 1:
        yield (start,), (stop - start,)
        return
    row = math.prod(shape[1:])
    first, last = -(-start // row), stop // row  # the whole rows
    if first > last:  # inside one row
        yield from _in_row(shape, last, start - last * row, stop - last * row)
        return
    if start < first * row:
        yield from _in_row(shape, first - 1, start - (first - 1) * row, row)
    if first < last:
        yield (first, *(0 for _ in shape[1:])), (last - first, *shape[1:])
    if last * row < stop:
        yield from _in_row(shape, last, 0, stop - last * row)


def _in_row(shape: Sequence[int], row: int, start: int, stop: int) -> Iterator[Rectangle]:
    for offset, sizes in rectangles(shape[1:], start, stop):
        yield (row, *offset), (1, *sizes)


def pieces_of(sharded: ShardedTensor | ShardedTensorFactory, parameter: Tensor) -> list[ShardedTensor]:
    """What a parameter is in the checkpoint: itself, or blocks of its rows that are stored apart (SwiGLU's gate and up)."""
    if isinstance(sharded, ShardedTensor):
        return [sharded]
    shapes = torch.empty(parameter.shape, device="meta")
    found: list[ShardedTensor] = sharded.build_fn(sharded.key, shapes, sharded.replica_id, None)
    assert sum(piece.local_shape[0] for piece in found) == parameter.shape[0], sharded.key
    assert all(piece.local_shape[1:] == parameter.shape[1:] for piece in found), sharded.key
    return found


def shards(prefix: str, pieces: Sequence[ShardedTensor], start: int, values: Tensor) -> Iterator[ShardedTensor]:
    """`values`, of the elements from `start` of a parameter, as parts of the checkpoint's tensors. Views.

    `prefix` comes before the weight's name.
    """
    first, taken = 0, 0  # element of the parameter at which a piece begins; values used
    for piece in pieces:
        size = math.prod(piece.local_shape)
        begin, end = max(start - first, 0), min(start + len(values) - first, size)
        for offset, sizes in rectangles(piece.local_shape, begin, end):
            whole = (1,) * piece.prepend_axis_num + sizes  # layers are stacked on an axis before the parameter's
            data = values[taken : taken + math.prod(sizes)].view(whole)
            taken += math.prod(sizes)
            place = (0,) * piece.prepend_axis_num + offset
            yield ShardedTensor(
                key=f"{prefix}{piece.key}", data=data, dtype=data.dtype, local_shape=whole,
                global_shape=piece.global_shape,
                global_offset=tuple(a + b for a, b in zip(piece.global_offset, place, strict=True)),
                axis_fragmentations=None, replica_id=(*piece.replica_id[:2], 0),  # each range is on one replica alone
                allow_shape_mismatch=piece.allow_shape_mismatch,
            )  # fmt: skip
        first += size
    assert taken == len(values)


def owned(inner: DistributedOptimizer) -> Iterator[tuple[Tensor, int]]:
    """(parameter, first element) of the ranges of which this replica has the optimizer's state."""
    for buffer in inner.gbuf_ranges:
        for buckets in buffer.values():
            for bucket in buckets:
                for parameter, ranges in bucket["param_map"].items():
                    yield parameter, ranges["param"].start


def by_parameter(model: dict[str, Any]) -> dict[Tensor, ShardedTensor | ShardedTensorFactory]:
    """What each parameter is in the sharded weights `model`."""
    tensors, _ = extract_sharded_tensors_and_factories(model)
    return {sharded.data: sharded for sharded in nested_values(tensors)}


def _range_shards(inner: DistributedOptimizer, model: dict[str, Any]) -> list[tuple[Tensor, dict[str, Any], list[Any]]]:
    """(parameter, its state here, that state as shards) of every range that this replica owns."""
    of_parameter = by_parameter(model)
    found = []
    for parameter, start in owned(inner):
        held = inner._get_main_param_and_optimizer_states(parameter)
        pieces = pieces_of(of_parameter[parameter], parameter)
        parts = [
            part for name in STATE_NAMES for part in shards(f"optimizer.state.{name}.", pieces, start, held[name].detach())
        ]  # fmt: skip
        found.append((parameter, held, parts))
    return found


def allocate(optimizer: Any) -> Any:
    """Makes the zero state that torch's AdamW or FusedAdam would make at its first step. Returns the inner optimizer."""
    (inner,) = optimizer.chained_optimizers
    inner.init_state_fn(inner.optimizer, inner.config)
    if _counts_steps_per_parameter(inner):
        _set_steps(inner, 0.0)
    return inner


def to_save(optimizer: Any, model: dict[str, Any]) -> dict[str, Any]:
    """The sharded optimizer state. `model`: the sharded weights of the same chunks."""
    (inner,) = optimizer.chained_optimizers
    if not isinstance(inner, DistributedOptimizer):
        return dict(inner.sharded_state_dict(model))
    parts = itertools.chain.from_iterable(parts for _, _, parts in _range_shards(inner, model))
    # a dict, because Megatron refuses to merge lists whose lengths differ, as they do under another layout
    return {**inner.state_dict(), "param_state": dict(enumerate(parts)), "param_state_sharding_type": FORMAT}


def to_load(optimizer: Any, model: dict[str, Any]) -> tuple[dict[str, Any], Callable[[dict[str, Any]], None]]:
    """(what to load from a checkpoint, the function that takes what was loaded and completes the optimizer).

    The tensors to load are the optimizer's own, so loading fills them; the rest is learning rates and the step.
    """
    inner = allocate(optimizer)
    if not isinstance(inner, DistributedOptimizer):
        return dict(inner.sharded_state_dict(model, is_loading=True)), inner.load_state_dict
    ranges = _range_shards(inner, model)

    @torch.no_grad()
    def complete(loaded: dict[str, Any]) -> None:
        for parameter, held, _ in ranges:  # for states that the optimizer keeps in another format than float32
            inner._set_main_param_and_optimizer_states(parameter, held)
        inner.load_state_dict({"optimizer": loaded["optimizer"]})
        if _counts_steps_per_parameter(inner):
            # Megatron makes all parameters share one tensor, which the next update would then increment once for each
            (step,) = {group["step"] for group in loaded["optimizer"]["param_groups"]}
            _set_steps(inner, float(step))

    parts = itertools.chain.from_iterable(parts for _, _, parts in ranges)
    return {"param_state": dict(enumerate(parts))}, complete


def _counts_steps_per_parameter(inner: Any) -> bool:
    """torch's AdamW has a `step` in the state of each parameter; FusedAdam of Transformer Engine and apex has it in groups."""
    return isinstance(inner.optimizer, torch.optim.Adam)


def _set_steps(inner: Any, step: float) -> None:
    for state in inner.optimizer.state.values():
        state["step"] = torch.tensor(step)
