"""Core attention where Transformer Engine is absent: RoPE and exact causal attention within each document of a pack.

Megatron's own DotProductAttention builds [s, s] scores with a dense mask and does not support context parallelism.
PackedAttention takes its place in the layer spec. The "attention mask" that Megatron passes through its layers is
`mask` here, the cumulative lengths of a row's parts and what they follow: the mask in compact form. PackedAttention also applies
RoPE, because positions restart in every document and one set of angles serves all layers of a step; GPTModel is built
without position embeddings.

Shapes: S positions of this rank, B rows, H heads, G key/value heads, D head size, N parts of one row.
"""

import itertools
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region, get_cuda_rng_tracker
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from nemo_srlm.train.batches import context_positions
from nemo_srlm.train.megatron.kernels import Look, equal_runs, packed_causal, split


def mask(bounds_N1: Tensor, prefixes_N: Tensor | None) -> Tensor:
    """What PackedAttention reads in place of a mask, one tensor, as Megatron passes it on: `bounds_N1` [N+1]; with shared
    prefixes [2, N+1], the second row `prefixes_N` and one place unused."""
    return bounds_N1 if prefixes_N is None else torch.stack([bounds_N1, F.pad(prefixes_N, (0, 1), value=-1)])


class Pack:
    """What all layers of a forward pass share: the lengths of a row's parts, the parts that they follow (-1 for none), and cos
    and sin [S, 1, D/2] of this rank's positions."""

    def __init__(
        self, lengths: list[int], prefixes: list[int], positions_S: Tensor, inv_freq: Tensor, interpolation: float
    ) -> None:
        self.lengths, self.prefixes = lengths, prefixes
        self.runs, self.looks = equal_runs(lengths), _looks(lengths, prefixes)
        freqs = torch.outer(positions_S.to(inv_freq.dtype), inv_freq)
        if interpolation != 1.0:
            freqs = freqs / interpolation
        self.cos, self.sin = freqs.cos()[:, None, :], freqs.sin()[:, None, :]


def _looks(lengths: list[int], prefixes: list[int]) -> list[Look]:
    """(positions of the neighbouring parts that follow a part, positions of that part)."""
    starts, found = np.cumsum([0, *lengths]).tolist(), []
    for prefix, group in itertools.groupby(range(len(lengths)), lambda part: prefixes[part]):
        if prefix >= 0:
            parts = list(group)
            found.append((slice(starts[parts[0]], starts[parts[-1] + 1]), slice(starts[prefix], starts[prefix + 1])))
    return found


class Rope:
    """Rotary angles of one model chunk, with Megatron's frequencies; its layers share it through the layer spec.

    It keeps the newest pack only, and makes it from the mask alone, so that a recomputed forward pass finds the same.
    """

    def __init__(self, config: TransformerConfig, base: float, **scaling: Any) -> None:
        embedding = RotaryEmbedding(
            kv_channels=config.kv_channels, rotary_percent=1.0, rotary_base=base,
            use_cpu_initialization=config.use_cpu_initialization, **scaling,
        )  # fmt: skip
        self._inv_freq: Tensor = embedding.inv_freq
        self._interpolation: float = embedding.seq_len_interpolation_factor or 1.0
        self._newest: tuple[Any, Pack] | None = None

    def pack(self, mask: Tensor | None, length: int, size: int, rank: int) -> Pack:
        """The pack of a mask, None for one document of `length` positions; `size`, `rank`: of context parallelism."""
        key = (length, None if mask is None else mask.numpy().tobytes())
        if self._newest is None or self._newest[0] != key:
            rows = [np.array([0, length])] if mask is None else np.atleast_2d(mask.numpy())
            lengths = np.diff(rows[0]).tolist()
            prefixes = rows[1][:-1].tolist() if len(rows) > 1 else [-1] * len(lengths)
            starts = [lengths[prefix] if prefix >= 0 else 0 for prefix in prefixes]
            positions = [start + context_positions(n, size, rank) for start, n in zip(starts, lengths, strict=True)]
            positions_S = torch.from_numpy(np.concatenate(positions))
            self._newest = key, Pack(lengths, prefixes, positions_S, self._inv_freq, self._interpolation)
        return self._newest[1]


class PackedAttention(MegatronModule):  # type: ignore[misc]  # megatron is not typed
    """RoPE and causal attention inside the parts of a row: [S, B, H, D] -> [S, B, H*D]. B is 1 where a mask is given."""

    def __init__(
        self, rope: Rope, config: TransformerConfig, layer_number: int, attn_mask_type: Any, attention_type: str,
        cp_comm_type: str | None = None, softmax_scale: float | None = None, pg_collection: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(config=config)
        self.rope = rope
        self.cp_group = pg_collection.cp
        self.dropout = config.attention_dropout

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, attn_mask_type: Any = None,
        attention_bias: Tensor | None = None, packed_seq_params: Any = None,
    ) -> Tensor:  # fmt: skip
        """`attention_mask` is that of `mask` (the row is a pack), or None (every row is one document)."""
        assert attention_bias is None
        assert packed_seq_params is None
        pack = self.rope.pack(attention_mask, query.shape[0], self.cp_group.size(), self.cp_group.rank())
        repeat = query.shape[2] // key.shape[2]
        if repeat > 1:
            key, value = key.repeat_interleave(repeat, dim=2), value.repeat_interleave(repeat, dim=2)
        dropout = self.dropout if self.training else 0.0
        if attention_mask is not None and self.cp_group.size() == 1 and not dropout:
            out = packed_causal(
                query.squeeze(1), key.squeeze(1), value.squeeze(1), pack.cos, pack.sin, pack.runs, pack.looks
            )
            return out.view(out.shape[0], 1, -1)
        query, key = _rotated(query, pack), _rotated(key, pack)
        with get_cuda_rng_tracker().fork() if dropout else nullcontext():  # heads differ over tensor-parallel ranks
            if attention_mask is None:
                out = _attend(query.permute(1, 2, 0, 3), key.permute(1, 2, 0, 3), value.permute(1, 2, 0, 3), dropout)
                return out.permute(2, 0, 1, 3).reshape(*query.shape[:2], -1)
            if self.cp_group.size() > 1 or pack.looks:
                return self._masked(query, key, value, pack, dropout)
            outs = []
            sizes = [count * length for count, length in pack.runs]
            splits = zip(split(query, sizes), split(key, sizes), split(value, sizes), strict=True)
            for (count, length), parts in zip(pack.runs, splits, strict=True):
                q, k, v = (x.reshape(count, length, *x.shape[2:]).transpose(1, 2) for x in parts)
                outs.append(_attend(q, k, v, dropout).transpose(1, 2).reshape(count * length, 1, -1))
            return torch.cat(outs)

    def _masked(self, query: Tensor, key: Tensor, value: Tensor, pack: Pack, dropout: float) -> Tensor:
        """Part by part. Keys and values are gathered over the context-parallel group (backward scatters gradients); queries
        are not."""
        size, rank = self.cp_group.size(), self.cp_group.rank()
        gathered = [
            gather_from_sequence_parallel_region(x.contiguous(), group=self.cp_group).view(size, *x.shape)
            for x in (key, value)
        ]  # [cp, S, 1, H, D]
        outs, start = [], 0
        whole: list[list[Tensor]] = []  # keys and values of the parts so far
        for length, prefix in zip(pack.lengths, pack.prefixes, strict=True):
            here = length // size
            order = torch.argsort(torch.cat([_positions(length, size, r) for r in range(size)]))
            whole.append([x[:, start : start + here].reshape(length, *x.shape[2:])[order] for x in gathered])
            q, (k, v) = query[start : start + here], whole[-1]
            visible = _positions(length, size, rank)[:, None] >= torch.arange(length)[None, :]
            if prefix >= 0:
                k, v = (torch.cat(both) for both in zip(whole[prefix], (k, v), strict=True))
                visible = F.pad(visible, (pack.lengths[prefix], 0), value=True)
            out = _attend(q.permute(1, 2, 0, 3), k.permute(1, 2, 0, 3), v.permute(1, 2, 0, 3), dropout, visible)
            outs.append(out.permute(2, 0, 1, 3).reshape(here, 1, -1))
            start += here
        return torch.cat(outs)


def _rotated(x_SBHD: Tensor, pack: Pack) -> Tensor:
    """RoPE by plain differentiable operations."""
    cos, sin = pack.cos[:, :, None, :], pack.sin[:, :, None, :]
    x1, x2 = x_SBHD.chunk(2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1).to(x_SBHD.dtype)


def _positions(length: int, size: int, rank: int) -> Tensor:
    return torch.from_numpy(context_positions(length, size, rank))


def _attend(q: Tensor, k: Tensor, v: Tensor, dropout: float, mask: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None)
