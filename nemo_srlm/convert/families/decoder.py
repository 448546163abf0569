"""The tensors of a decoder under Llama's HF names, which Mistral and Qwen share.

| Megatron (sharded key)                                     | HF                                                               |
|------------------------------------------------------------|------------------------------------------------------------------|
| embedding.word_embeddings.weight                           | model.embed_tokens.weight (rows past the vocabulary are padding) |
| decoder.layers.self_attention.linear_qkv.layer_norm_weight | model.layers.N.input_layernorm.weight                            |
| decoder.layers.self_attention.linear_qkv.weight            | per query group: its query heads, then its key, then its value   |
| decoder.layers.self_attention.linear_qkv.bias (QKV biases) | q_proj.bias, k_proj.bias, v_proj.bias in the same order          |
| decoder.layers.self_attention.q_layernorm.weight (QK norm) | model.layers.N.self_attn.q_norm.weight                           |
| decoder.layers.self_attention.k_layernorm.weight (QK norm) | model.layers.N.self_attn.k_norm.weight                           |
| decoder.layers.self_attention.linear_proj.weight           | model.layers.N.self_attn.o_proj.weight                           |
| decoder.layers.mlp.linear_fc1.layer_norm_weight            | model.layers.N.post_attention_layernorm.weight                   |
| decoder.layers.mlp.linear_fc1.weight                       | gate_proj rows, then up_proj rows                                |
| decoder.layers.mlp.linear_fc2.weight                       | model.layers.N.mlp.down_proj.weight                              |
| decoder.final_layernorm.weight                             | model.norm.weight                                                |
| output_layer.weight (absent when tied)                     | lm_head.weight                                                   |

The layer is the leading axis of a Megatron tensor. No torch.
"""

from collections.abc import Iterator

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert.mapping import EMBEDDING, HEAD, MegatronTensor, RowBlock, qkv_blocks, shard_size, whole


def decoder_tensors(model: ModelSection) -> Iterator[MegatronTensor]:
    """Every parameter once, in the order of the layers.

    Megatron shards embedding, QKV, gate, up and head by rows, the two projections back to the hidden size by columns.
    """
    hidden, ffn, vocab = model.hidden_size, model.ffn_hidden_size, model.vocab_size
    heads, groups, query = model.num_attention_heads, model.num_query_groups, model.query_size
    qkv = query + 2 * model.kv_size
    norm, head, vocab_shard = (hidden,), (model.head_size,), (shard_size(vocab, vocab), hidden)
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
        if model.qkv_bias:
            yield MegatronTensor(
                f"{attention}linear_qkv.bias", layer, (qkv,), (shard_size(qkv, groups),),
                qkv_blocks(model, *(f"{hf}self_attn.{name}_proj.bias" for name in "qkv")),
            )  # fmt: skip
        for name in "qk" if model.qk_norm else "":
            yield MegatronTensor(
                f"{attention}{name}_layernorm.weight", layer, head, head,
                whole(f"{hf}self_attn.{name}_norm.weight", model.head_size),
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
