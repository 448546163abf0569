"""The one table between HF Llama tensors and Megatron-core tensors, read in both directions.

Every Llama weight in Megatron is a row-wise arrangement of HF weights: a `Run` says which rows of an HF tensor stand
where in a Megatron tensor. Nothing is ever transposed or rotated: HF's `rotate_half` RoPE is Megatron's own
(`rotary_interleaved=False`), so query and key rows keep their order within a head.

| Megatron (sharded key)                            | HF                                                              |
|---------------------------------------------------|-----------------------------------------------------------------|
| embedding.word_embeddings.weight                  | model.embed_tokens.weight (rows past the vocabulary are padding) |
| decoder.layers.self_attention.linear_qkv.layer_norm_weight | model.layers.N.input_layernorm.weight                  |
| decoder.layers.self_attention.linear_qkv.weight   | per query group: its query heads, then its key, then its value  |
| decoder.layers.self_attention.linear_proj.weight  | model.layers.N.self_attn.o_proj.weight                          |
| decoder.layers.mlp.linear_fc1.layer_norm_weight   | model.layers.N.post_attention_layernorm.weight                  |
| decoder.layers.mlp.linear_fc1.weight              | gate_proj rows, then up_proj rows                               |
| decoder.layers.mlp.linear_fc2.weight              | model.layers.N.mlp.down_proj.weight                             |
| decoder.final_layernorm.weight                    | model.norm.weight                                               |
| output_layer.weight (absent when tied)            | lm_head.weight                                                  |

Layers stand on a leading axis of the Megatron tensor. Pure Python: no torch.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from nemo_srlm.config.training import ModelSection
from nemo_srlm.errors import ConfigError

# Buffers that old HF checkpoints carry and that follow from the config: counted, not converted.
IGNORED_HF = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$|model\.rotary_emb\.inv_freq$")
# An import cuts tensors where the shards of 2, 4 or 8 tensor-parallel ranks end: a node's worth, the usual limit.
TENSOR_PARALLEL = 8


@dataclass(frozen=True)
class Run:
    """`rows` rows of HF tensor `hf`, from its row `hf_row`, stand from row `row` of the Megatron tensor."""

    hf: str
    hf_row: int
    row: int
    rows: int


@dataclass(frozen=True)
class Entry:
    """One Megatron tensor (of one layer): its sharded key, its index on the layer axis, its shape and its rows."""

    key: str
    layer: int | None
    shape: tuple[int, ...]  # without the layer axis and without vocabulary padding
    shard: tuple[int, ...]  # the shape's part that one of up to TENSOR_PARALLEL ranks owns
    runs: tuple[Run, ...]

    @property
    def row_numel(self) -> int:
        return math.prod(self.shape[1:])

    @property
    def name(self) -> str:
        """For messages: the key with the layer number where Megatron's own modules have it."""
        return self.key if self.layer is None else self.key.replace("layers.", f"layers.{self.layer}.", 1)

    @property
    def layered_key(self) -> str:
        """The sharded key under `non_homogeneous_layers`, where every layer has a key of its own."""
        return self.name


def check(model: ModelSection, where: object = "model") -> None:
    """Raises ConfigError when the sizes contradict each other."""
    if model.hidden_size % model.num_attention_heads:
        raise ConfigError(
            f"{where}.hidden_size", str(model.hidden_size), f"a multiple of {model.num_attention_heads} heads"
        )
    if model.num_attention_heads % model.num_query_groups:
        raise ConfigError(
            f"{where}.num_query_groups", str(model.num_query_groups), f"a divisor of {model.num_attention_heads} heads"
        )


def _whole(hf: str, rows: int) -> tuple[Run, ...]:
    return (Run(hf, 0, 0, rows),)


def _qkv(prefix: str, model: ModelSection) -> tuple[Run, ...]:
    """Interleaved by query group, so that any tensor-parallel cut between groups keeps heads with their key and value."""
    size = model.hidden_size // model.num_attention_heads
    queries = model.num_attention_heads // model.num_query_groups * size  # rows of one group's query heads
    runs = []
    for group in range(model.num_query_groups):
        row = group * (queries + 2 * size)
        runs.append(Run(f"{prefix}q_proj.weight", group * queries, row, queries))
        runs.append(Run(f"{prefix}k_proj.weight", group * size, row + queries, size))
        runs.append(Run(f"{prefix}v_proj.weight", group * size, row + queries + size, size))
    return tuple(runs)


def _part(size: int, units: int) -> int:
    """The share of `size` of one rank where up to TENSOR_PARALLEL ranks divide its `units` (heads, groups, rows)."""
    return size // math.gcd(TENSOR_PARALLEL, units)


def table(model: ModelSection) -> Iterator[Entry]:
    """Every parameter of the model once, in the order of the layers.

    Megatron cuts embedding, QKV, gate, up and head along rows, the two projections back to the hidden size along columns.
    """
    check(model)
    hidden, ffn, vocab = model.hidden_size, model.ffn_hidden_size, model.vocab_size
    heads, groups = model.num_attention_heads, model.num_query_groups
    kv = hidden // heads * groups
    qkv, words = hidden + 2 * kv, (_part(vocab, vocab), hidden)
    yield Entry(
        "embedding.word_embeddings.weight", None, (vocab, hidden), words, _whole("model.embed_tokens.weight", vocab)
    )
    for layer in range(model.num_layers):
        hf, key = f"model.layers.{layer}.", "decoder.layers."
        yield Entry(
            f"{key}self_attention.linear_qkv.layer_norm_weight", layer, (hidden,), (hidden,),
            _whole(f"{hf}input_layernorm.weight", hidden),
        )  # fmt: skip
        yield Entry(
            f"{key}self_attention.linear_qkv.weight", layer, (qkv, hidden), (_part(qkv, groups), hidden),
            _qkv(f"{hf}self_attn.", model),
        )  # fmt: skip
        yield Entry(
            f"{key}self_attention.linear_proj.weight", layer, (hidden, hidden), (hidden, _part(hidden, heads)),
            _whole(f"{hf}self_attn.o_proj.weight", hidden),
        )  # fmt: skip
        yield Entry(
            f"{key}mlp.linear_fc1.layer_norm_weight", layer, (hidden,), (hidden,),
            _whole(f"{hf}post_attention_layernorm.weight", hidden),
        )  # fmt: skip
        gate, up = Run(f"{hf}mlp.gate_proj.weight", 0, 0, ffn), Run(f"{hf}mlp.up_proj.weight", 0, ffn, ffn)
        yield Entry(f"{key}mlp.linear_fc1.weight", layer, (2 * ffn, hidden), (_part(ffn, ffn), hidden), (gate, up))
        yield Entry(
            f"{key}mlp.linear_fc2.weight", layer, (hidden, ffn), (hidden, _part(ffn, ffn)),
            _whole(f"{hf}mlp.down_proj.weight", hidden),
        )  # fmt: skip
    yield Entry("decoder.final_layernorm.weight", None, (hidden,), (hidden,), _whole("model.norm.weight", hidden))
    if not model.tie_embeddings:
        yield Entry("output_layer.weight", None, (vocab, hidden), words, _whole("lm_head.weight", vocab))


@dataclass(frozen=True)
class HfTensor:
    """The same table read from the other side: an HF tensor and where its rows stand in one Megatron tensor."""

    name: str
    shape: tuple[int, ...]
    entry: Entry
    runs: tuple[Run, ...]  # of this tensor only, ascending in hf_row

    @property
    def row_numel(self) -> int:
        return math.prod(self.shape[1:])


def hf_tensors(model: ModelSection) -> Iterator[HfTensor]:
    """Every HF tensor of the model once."""
    for entry in table(model):
        by_name: dict[str, list[Run]] = {}
        for run in entry.runs:
            by_name.setdefault(run.hf, []).append(run)
        for name, runs in by_name.items():
            runs.sort(key=lambda run: run.hf_row)
            rows = runs[-1].hf_row + runs[-1].rows
            yield HfTensor(name, (rows, *entry.shape[1:]), entry, tuple(runs))


def num_parameters(model: ModelSection) -> int:
    return sum(math.prod(entry.shape) for entry in table(model))
