"""The model: config sections -> TransformerConfig, layer spec, the GPTModel chunks of this rank, initial weights.

`build_model` works under any parallel layout; call `setup.initialize` first. The initial values that Megatron draws
depend on the layout and are not used: a checkpoint, an HF import or `initialize_weights` overwrites them.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection
from nemo_srlm.core.records import item_seed
from nemo_srlm.errors import ConfigError
from nemo_srlm.train.layout import padded_vocab_size
from nemo_srlm.train.megatron import accelerator, fp8_weights
from nemo_srlm.train.megatron.attention import PackedAttention, Rope
from nemo_srlm.train.megatron.kernels import RMSNorm, SwiGLU

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def transformer_config(
    model: ModelSection, parallel: ParallelSection, precision: PrecisionSection, dropout: float = 0.0
) -> TransformerConfig:
    """Megatron's own settings for the model. `dropout` is for hidden states and attention probabilities."""
    gpu = torch.cuda.is_available()
    fused = accelerator.has_transformer_engine()
    dtype = DTYPES[precision.dtype]
    settings: dict[str, Any] = {}
    if precision.fp8 != "none":
        settings |= {
            "fp8": precision.fp8,
            "fp8_recipe": precision.fp8_recipe,
            "fp8_param": precision.fp8_param_gather,
            "first_last_layers_bf16": precision.fp8_bf16_layers > 0,
            "num_layers_at_start_in_bf16": precision.fp8_bf16_layers,
            "num_layers_at_end_in_bf16": precision.fp8_bf16_layers,
        }
    if precision.recompute == "full":
        settings |= {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    elif precision.recompute == "selective":
        settings |= {"recompute_granularity": "selective"}
    if precision.cuda_graphs != "none":
        settings |= {"cuda_graph_impl": "transformer_engine", "cuda_graph_scope": [precision.cuda_graphs]}
    if precision.cross_entropy != "unfused":
        settings |= {"cross_entropy_loss_fusion": True, "cross_entropy_fusion_impl": precision.cross_entropy}
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        kv_channels=model.head_size,
        normalization="RMSNorm",
        layernorm_epsilon=model.norm_epsilon,
        activation_func=F.silu,
        gated_linear_unit=True,
        add_bias_linear=False,
        add_qkv_bias=model.qkv_bias,
        qk_layernorm=model.qk_norm,
        attention_dropout=dropout,
        hidden_dropout=dropout,
        init_method_std=model.init_std,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=precision.dtype == "bf16",
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline if parallel.virtual_pipeline > 1 else None,
        context_parallel_size=parallel.context,
        sequence_parallel=parallel.sequence,
        calculate_per_token_loss=True,  # divides once, by the global count: the gradient is the same under any split
        attention_softmax_in_fp32=True,
        use_cpu_initialization=not gpu,
        persist_layer_norm=fused,
        bias_activation_fusion=fused,
        use_te_activation_func=not fused,  # Megatron's name for "the activation is a module of the spec": kernels.SwiGLU
        bias_dropout_fusion=fused,
        masked_softmax_fusion=False,
        apply_rope_fusion=fused,
        gradient_accumulation_fusion=fused and accelerator.has_fused_accumulation() and precision.cuda_graphs == "none",
        batch_p2p_comm=gpu and parallel.virtual_pipeline == 1,
        overlap_p2p_comm=parallel.virtual_pipeline > 1,  # there is another chunk to compute meanwhile
        tp_comm_overlap=parallel.tp_comm_overlap,
        **settings,
    )


def local_spec(config: TransformerConfig, rope: Rope, vp_stage: int | None) -> TransformerBlockSubmodules:
    """Megatron's layers without Transformer Engine, with this project's attention, norm and activation."""
    spec = get_gpt_layer_local_spec(normalization="RMSNorm")
    layer = spec.submodules
    layer.self_attention.submodules.core_attention = ModuleSpec(PackedAttention, params={"rope": rope})
    layer.input_layernorm = layer.pre_mlp_layernorm = RMSNorm
    if config.qk_layernorm:
        layer.self_attention.submodules.q_layernorm = layer.self_attention.submodules.k_layernorm = RMSNorm
    # a specification of our own: in megatron-core 0.19 the one that Megatron made is a functools.partial
    mlp = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear, activation_func=SwiGLU)
    layer.mlp = ModuleSpec(MLP, submodules=mlp)
    num_layers = get_num_layers_to_build(config, vp_stage=vp_stage)
    return TransformerBlockSubmodules(layer_specs=[spec] * num_layers, layer_norm=RMSNorm)


def rope_settings(model: ModelSection) -> dict[str, Any]:
    """RotaryEmbedding's (and GPTModel's) arguments for HF's `rope_scaling`.

    Raises ConfigError for a kind that Megatron does not compute.
    """
    scaling = model.rope_scaling
    where = "model.rope_scaling"
    if not scaling:
        return {}
    kind = scaling.get("rope_type") or scaling.get("type")  # HF has used both names
    if kind == "default":
        return {}
    if kind == "linear":
        return {"seq_len_interpolation_factor": float(scaling["factor"])}
    if kind == "llama3":
        fixed = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        for name, value in fixed.items():
            if name in scaling and float(scaling[name]) != value:
                raise ConfigError(where, f"{name} {scaling[name]}", f"{value} (fixed in Megatron's RoPE)")
        return {"rope_scaling": True, "rope_scaling_factor": float(scaling["factor"])}
    raise ConfigError(where, f"{scaling}", "rope_type linear or llama3, or {}")


def build_model(
    model: ModelSection,
    parallel: ParallelSection,
    precision: PrecisionSection,
    dropout: float = 0.0,
) -> list[GPTModel]:
    """The GPTModel chunks of this rank (one per virtual pipeline stage) on its device. Fill the weights before use."""
    config = transformer_config(model, parallel, precision, dropout)
    chunks = []
    for index in range(parallel.virtual_pipeline):
        stage = index if parallel.virtual_pipeline > 1 else None
        chunk = GPTModel(
            config=config,
            vocab_size=padded_vocab_size(model, parallel.tensor),
            max_sequence_length=model.max_length,
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=stage),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=stage),
            share_embeddings_and_output_weights=model.tie_embeddings,
            vp_stage=stage,
            **layers_and_positions(config, model, stage),
        )
        if torch.cuda.is_available():
            chunk.cuda(torch.cuda.current_device())
        if accelerator.has_transformer_engine() and precision.cuda_graphs == "none":
            fuse_accumulation(chunk)
        chunks.append(chunk)
    return chunks


def fuse_accumulation(chunk: GPTModel) -> None:
    """Transformer Engine's layers add a weight's gradient to its buffer in the matrix product that computes it.

    Megatron's setting for this wants apex, which its own layers alone need (the output layer). A recorded product would
    always do what it did in the first micro-batch, which is not to add.
    """
    from transformer_engine.pytorch import LayerNormLinear, Linear

    for module in chunk.modules():
        if isinstance(module, (LayerNormLinear, Linear)):
            module.fuse_wgrad_accumulation = True


def layers_and_positions(config: TransformerConfig, model: ModelSection, vp_stage: int | None) -> dict[str, Any]:
    """GPTModel's arguments for its layers and RoPE: Transformer Engine's where it is, else PackedAttention applies RoPE."""
    if accelerator.has_transformer_engine():
        return {
            "transformer_layer_spec": get_gpt_layer_with_transformer_engine_spec(qk_layernorm=model.qk_norm),
            "position_embedding_type": "rope",
            "rotary_base": model.rope_theta, **rope_settings(model),
        }  # fmt: skip
    rope = Rope(config, model.rope_theta, **rope_settings(model))
    return {"transformer_layer_spec": local_spec(config, rope, vp_stage), "position_embedding_type": "none"}


@torch.no_grad()
def initialize_weights(chunks: list[GPTModel], model: ModelSection, seed: int) -> None:
    """Megatron's initial values: normal, output projections scaled by 1/sqrt(2 layers). The same under any layout.

    Every matrix is drawn whole from a generator seeded by its name in the whole model; then this rank's shard is taken. The copy
    of tied embeddings that the last pipeline stage holds as its output layer is drawn as the embedding itself.
    """
    rank, size = parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_tensor_model_parallel_world_size()
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(0.0 if name.endswith(".bias") else 1.0)  # biases, norms
                continue
            scaled = name.endswith(("linear_proj.weight", "linear_fc2.weight"))
            std = model.init_std / math.sqrt(2.0 * model.num_layers) if scaled else model.init_std
            generator = torch.Generator().manual_seed(item_seed(seed, _drawn_as(chunk, name)))
            shape = list(parameter.shape)
            shape[parameter.partition_dim] *= size
            if shape[0] == padded_vocab_size(model, size) and ("embedding" in name or "output_layer" in name):
                shape[0] = model.vocab_size  # padding depends on the layout, the drawn values must not
            full = torch.empty(shape).normal_(0.0, std, generator=generator)
            padding = parameter.shape[parameter.partition_dim] * size - full.shape[parameter.partition_dim]
            if padding:
                full = F.pad(full, (0, 0, 0, padding))
            parts = full.chunk(2, dim=0) if "linear_fc1" in name else (full,)  # gate and up are sharded apart
            shard = torch.cat([p.chunk(size, dim=parameter.partition_dim)[rank] for p in parts])
            fp8_weights.fill(parameter, shard)


def _drawn_as(chunk: GPTModel, name: str) -> str:
    tied = chunk.share_embeddings_and_output_weights and name == "output_layer.weight"
    return "embedding.word_embeddings.weight" if tied else global_name(chunk, name)


def global_name(chunk: GPTModel, name: str) -> str:
    """A parameter's name in the whole model: with the layer's global number instead of its number in this chunk."""
    parts = name.split(".")
    if "layers" in parts:
        at = parts.index("layers") + 1
        parts[at] = str(chunk.decoder.layers[int(parts[at])].layer_number - 1)
    return ".".join(parts)
