"""One pass over micro-batches: tensors on the device, the context-parallel share, attention inputs, Megatron's schedule.

Shapes: B rows, S positions of this rank (its context-parallel share), N documents of a micro-batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from megatron.core import parallel_state
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel.mappings import reduce_from_tensor_model_parallel_region
from torch import Tensor

from nemo_srlm.train.batches import Batch, context_positions
from nemo_srlm.train.megatron import accelerator, attention, target_logits


@dataclass(frozen=True)
class LocalBatch:
    """This rank's share of a micro-batch, as tensors. `bounds_N1` describes the whole rows, not the share."""

    tokens_BS: Tensor
    labels_BS: Tensor
    weights_BS: Tensor
    segments_BS: Tensor
    positions_S: Tensor
    bounds_N1: Tensor | None
    longest: int  # length of the longest part, padding included
    num_documents: int
    positions: tuple[int, ...]
    row_length: int  # of the whole row, before context parallelism
    prefixes_N: Tensor | None
    targets_K: Tensor | None = None  # target_logits.targets of this rank's share


# (token losses [B, S], batch) -> (sum to differentiate, its count, anything to collect)
MicroBatchLoss = Callable[[Tensor, LocalBatch], tuple[Tensor, Tensor, Any]]


def localize(batch: Batch, device: torch.device) -> LocalBatch:
    """This context-parallel rank's positions of every document, on the device."""
    size, rank = parallel_state.get_context_parallel_world_size(), parallel_state.get_context_parallel_rank()
    arrays: list[npt.NDArray[Any]] = [batch.tokens_BS, batch.labels_BS, batch.weights_BS, batch.segments_BS]
    positions = batch.positions_S
    if size > 1:
        assert batch.bounds_N1 is not None
        spans = zip(batch.bounds_N1[:-1], batch.bounds_N1[1:], strict=True)
        index = np.concatenate([start + context_positions(int(end - start), size, rank) for start, end in spans])
        arrays = [a[:, index] for a in arrays]
        positions = positions[index]
    targets = target_logits.targets(arrays[2])
    tokens, labels, weights, segments = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays)
    bounds = None if batch.bounds_N1 is None else torch.from_numpy(batch.bounds_N1)
    longest = batch.tokens_BS.shape[1] if batch.bounds_N1 is None else int(np.diff(batch.bounds_N1).max())
    return LocalBatch(
        tokens, labels, weights, segments, torch.from_numpy(positions).to(device), bounds, longest,
        batch.num_documents, batch.positions, batch.tokens_BS.shape[1],
        None if batch.prefixes_N is None else torch.from_numpy(batch.prefixes_N),
        None if targets is None else torch.from_numpy(targets).to(device),
    )  # fmt: skip


def attention_inputs(batch: LocalBatch) -> tuple[Tensor | None, PackedSeqParams | None]:
    """(attention_mask, packed_seq_params) that keep the parts of a pack apart.

    Transformer Engine reads cumulative lengths from packed_seq_params; PackedAttention reads them as its mask, with
    shared prefixes as a second row (`attention.mask`).
    """
    if batch.bounds_N1 is None:
        return None, None
    if not accelerator.has_transformer_engine():
        return attention.mask(batch.bounds_N1, batch.prefixes_N), None
    assert batch.prefixes_N is None, "Transformer Engine has no such mask: fit_dpo refuses it"
    bounds = batch.bounds_N1.to(batch.tokens_BS.device, torch.int32)
    return None, PackedSeqParams(
        qkv_format="thd", cu_seqlens_q=bounds, cu_seqlens_kv=bounds, cu_seqlens_q_padded=bounds,
        cu_seqlens_kv_padded=bounds, max_seqlen_q=batch.longest, max_seqlen_kv=batch.longest,
    )  # fmt: skip


def forward(chunk: torch.nn.Module, batch: LocalBatch, labels_BS: Tensor | None) -> Tensor:
    """One model chunk: token losses [B, S] (last stage, with labels), logits [B, S, V/tp], or hidden states.

    Token losses of positions without a loss weight are 0 or their own: they count nothing.
    """
    mask, packed = attention_inputs(batch)
    inputs = {
        "input_ids": batch.tokens_BS, "position_ids": batch.positions_S.expand_as(batch.tokens_BS), "attention_mask": mask,
        "packed_seq_params": packed,
    }  # fmt: skip
    targets_K = batch.targets_K
    if labels_BS is None or targets_K is None or not target_logits.selects(chunk):
        out: Tensor = chunk(labels=labels_BS, **inputs)
        return out
    with target_logits.only_at(chunk, targets_K):
        nll_1K = chunk(labels=labels_BS.flatten()[targets_K].unsqueeze(0), **inputs)
    return target_logits.spread(nll_1K, targets_K, labels_BS)


def over_context(sums_N: Tensor) -> Tensor:
    """Sum over the context-parallel group. Backward is the identity: each rank keeps the gradient of its own tokens."""
    group = parallel_state.get_context_parallel_group()
    out: Tensor = reduce_from_tensor_model_parallel_region(sums_N, group=group)
    return out


def run_schedule(
    chunks: list[Any], batches: Sequence[Batch], loss: MicroBatchLoss, device: torch.device, forward_only: bool
) -> list[Any]:
    """Megatron's forward-backward schedule over the micro-batches; what `loss` collected (on the last stage only)."""
    if not batches:
        return []

    def forward_step(iterator: Any, chunk: torch.nn.Module) -> tuple[Tensor, Callable[[Tensor], Any]]:
        batch = next(iterator)
        return forward(chunk, batch, batch.labels_BS), lambda nll_BS: loss(nll_BS, batch)

    local = [localize(batch, device) for batch in batches]
    rows, length = local[0].tokens_BS.shape[0], local[0].row_length
    with torch.set_grad_enabled(not forward_only):
        collected: list[Any] = get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=[iter(local) for _ in chunks] if len(chunks) > 1 else iter(local),
            model=chunks,
            num_microbatches=len(local),
            seq_length=length,
            micro_batch_size=rows,
            forward_only=forward_only,
        )
    return collected
