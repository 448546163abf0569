"""How HF tensors correspond to Megatron-core tensors: the terms in which every model family states its mapping.

Each row of a Megatron tensor is a whole row of an HF tensor: a `RowBlock` says which rows of an HF tensor lie where in a
Megatron tensor. Nothing is transposed or permuted within a head: HF's `rotate_half` RoPE is Megatron's own
(`rotary_interleaved=False`). A family lists its Megatron tensors once; `hf_tensors` inverts the list. No torch.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nemo_srlm.config.training import ModelSection

# An import cuts tensors where the shards of 2, 4 or 8 tensor-parallel ranks end: a node's worth, the usual limit.
TENSOR_PARALLEL = 8
# Sharded keys of the two tensors that have a row per token of the vocabulary; Megatron may pad them.
EMBEDDING, HEAD = "embedding.word_embeddings.weight", "output_layer.weight"


@dataclass(frozen=True)
class RowBlock:
    """`num_rows` rows of the HF tensor `hf_name`, from its row `hf_row` on, lie from row `row` on in the Megatron tensor."""

    hf_name: str
    hf_row: int
    row: int
    num_rows: int


@dataclass(frozen=True)
class MegatronTensor:
    """One Megatron tensor of one layer: its sharded key, its index on the layer axis, its shape and its rows."""

    key: str
    layer: int | None
    shape: tuple[int, ...]  # without the layer axis and without vocabulary padding
    shard_shape: tuple[int, ...]  # the part that one of up to TENSOR_PARALLEL ranks owns
    blocks: tuple[RowBlock, ...]

    @property
    def row_numel(self) -> int:
        return math.prod(self.shape[1:])

    @property
    def name(self) -> str:
        """The key with the layer's number, as Megatron's modules and `non_homogeneous_layers` checkpoints have it."""
        return self.key if self.layer is None else self.key.replace("layers.", f"layers.{self.layer}.", 1)


@dataclass(frozen=True)
class HfTensor:
    """An HF tensor, and where its rows lie in the one Megatron tensor that holds them."""

    name: str
    shape: tuple[int, ...]
    megatron: MegatronTensor
    blocks: tuple[RowBlock, ...]  # of this tensor only, ascending in hf_row

    @property
    def row_numel(self) -> int:
        return math.prod(self.shape[1:])


def whole(hf_name: str, num_rows: int) -> tuple[RowBlock, ...]:
    """The blocks of a Megatron tensor that is one HF tensor."""
    return (RowBlock(hf_name, 0, 0, num_rows),)


def qkv_blocks(model: ModelSection, query: str, key: str, value: str) -> tuple[RowBlock, ...]:
    """The blocks of Megatron's fused QKV tensor, from the HF names of its three parts.

    Interleaved by query group (its query heads, its key, its value), so that a tensor-parallel cut between groups keeps
    heads with their key and value.
    """
    size = model.head_size
    queries = model.num_attention_heads // model.num_query_groups * size  # rows of one group's query heads
    blocks = []
    for group in range(model.num_query_groups):
        row = group * (queries + 2 * size)
        blocks.append(RowBlock(query, group * queries, row, queries))
        blocks.append(RowBlock(key, group * size, row + queries, size))
        blocks.append(RowBlock(value, group * size, row + queries + size, size))
    return tuple(blocks)


def shard_size(size: int, units: int) -> int:
    """One rank's part of `size` where up to TENSOR_PARALLEL ranks share its `units` (heads, groups, rows) equally."""
    return size // math.gcd(TENSOR_PARALLEL, units)


def hf_tensors(tensors: Iterable[MegatronTensor]) -> Iterator[HfTensor]:
    """The mapping seen from the other side: every HF tensor once."""
    for tensor in tensors:
        by_name: dict[str, list[RowBlock]] = {}
        for block in tensor.blocks:
            by_name.setdefault(block.hf_name, []).append(block)
        for name, blocks in by_name.items():
            blocks.sort(key=lambda block: block.hf_row)
            num_rows = blocks[-1].hf_row + blocks[-1].num_rows
            yield HfTensor(name, (num_rows, *tensor.shape[1:]), tensor, tuple(blocks))
