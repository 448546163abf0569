"""Llama (model_type `llama`, LlamaForCausalLM): Llama 2 and 3, and what else uses their architecture and names.

| Megatron (sharded key)                                     | HF                                                               |
|------------------------------------------------------------|------------------------------------------------------------------|
| embedding.word_embeddings.weight                           | model.embed_tokens.weight (rows past the vocabulary are padding) |
| decoder.layers.self_attention.linear_qkv.layer_norm_weight | model.layers.N.input_layernorm.weight                            |
| decoder.layers.self_attention.linear_qkv.weight            | per query group: its query heads, then its key, then its value   |
| decoder.layers.self_attention.linear_proj.weight           | model.layers.N.self_attn.o_proj.weight                           |
| decoder.layers.mlp.linear_fc1.layer_norm_weight            | model.layers.N.post_attention_layernorm.weight                   |
| decoder.layers.mlp.linear_fc1.weight                       | gate_proj rows, then up_proj rows                                |
| decoder.layers.mlp.linear_fc2.weight                       | model.layers.N.mlp.down_proj.weight                              |
| decoder.final_layernorm.weight                             | model.norm.weight                                                |
| output_layer.weight (absent when tied)                     | lm_head.weight                                                   |

The layer is the leading axis of a Megatron tensor. No torch.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert.config_json import decoder_fields, read_decoder
from nemo_srlm.convert.families.family import Family
from nemo_srlm.convert.mapping import EMBEDDING, HEAD, MegatronTensor, RowBlock, qkv_blocks, shard_size, whole
from nemo_srlm.errors import CheckpointError

ROPE_TYPES = ("linear", "llama3")  # what Megatron-core's RoPE computes besides the plain one


def _read_config(data: dict[str, Any], path: Path) -> ModelSection:
    for name in ("attention_bias", "mlp_bias"):
        if data.get(name):
            raise CheckpointError(path, f"{name} is true", "a Llama without biases")
    if data.get("hidden_act", "silu") != "silu":
        raise CheckpointError(path, f"hidden_act {data['hidden_act']!r}", "'silu'")
    return read_decoder(data, path, "llama", ROPE_TYPES)


def _write_config(model: ModelSection) -> dict[str, Any]:
    return {
        "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False,
        **decoder_fields(model),
    }  # fmt: skip


def _megatron_tensors(model: ModelSection) -> Iterator[MegatronTensor]:
    """Megatron shards embedding, QKV, gate, up and head by rows, the two projections back to the hidden size by columns."""
    hidden, ffn, vocab = model.hidden_size, model.ffn_hidden_size, model.vocab_size
    heads, groups, query = model.num_attention_heads, model.num_query_groups, model.query_size
    qkv = query + 2 * model.kv_size
    norm, vocab_shard = (hidden,), (shard_size(vocab, vocab), hidden)
    yield MegatronTensor(EMBEDDING, None, (vocab, hidden), vocab_shard, whole("model.embed_tokens.weight", vocab))
    for layer in range(model.num_layers):
        hf, attention, mlp = f"model.layers.{layer}.", "decoder.layers.self_attention.", "decoder.layers.mlp."
        yield MegatronTensor(
            f"{attention}linear_qkv.layer_norm_weight", layer, norm, norm, whole(f"{hf}input_layernorm.weight", hidden)
        )
        yield MegatronTensor(
            f"{attention}linear_qkv.weight", layer, (qkv, hidden), (shard_size(qkv, groups), hidden),
            qkv_blocks(model, *(f"{hf}self_attn.{name}_proj.weight" for name in "qkv")),
        )  # fmt: skip
        yield MegatronTensor(
            f"{attention}linear_proj.weight", layer, (hidden, query), (hidden, shard_size(query, heads)),
            whole(f"{hf}self_attn.o_proj.weight", hidden),
        )  # fmt: skip
        yield MegatronTensor(
            f"{mlp}linear_fc1.layer_norm_weight", layer, norm, norm,
            whole(f"{hf}post_attention_layernorm.weight", hidden),
        )  # fmt: skip
        gate, up = RowBlock(f"{hf}mlp.gate_proj.weight", 0, 0, ffn), RowBlock(f"{hf}mlp.up_proj.weight", 0, ffn, ffn)
        yield MegatronTensor(
            f"{mlp}linear_fc1.weight", layer, (2 * ffn, hidden), (shard_size(ffn, ffn), hidden), (gate, up)
        )
        yield MegatronTensor(
            f"{mlp}linear_fc2.weight", layer, (hidden, ffn), (hidden, shard_size(ffn, ffn)),
            whole(f"{hf}mlp.down_proj.weight", hidden),
        )  # fmt: skip
    yield MegatronTensor("decoder.final_layernorm.weight", None, norm, norm, whole("model.norm.weight", hidden))
    if not model.tie_embeddings:
        yield MegatronTensor(HEAD, None, (vocab, hidden), vocab_shard, whole("lm_head.weight", vocab))


LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    read_config=_read_config,
    write_config=_write_config,
    megatron_tensors=_megatron_tensors,
    # RoPE's frequencies, which old checkpoints hold
    ignored_hf_tensors=re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$|model\.rotary_emb\.inv_freq$"),
)
