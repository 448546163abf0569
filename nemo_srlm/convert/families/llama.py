"""Llama (model_type `llama`, LlamaForCausalLM): Llama 2 and 3, SmolLM2, and what else uses their architecture and names."""

import re
from pathlib import Path
from typing import Any

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert.config_json import decoder_fields, read_decoder, refuse_biases
from nemo_srlm.convert.families.decoder import decoder_tensors
from nemo_srlm.convert.families.family import Family

ROPE_TYPES = ("linear", "llama3")  # what Megatron-core's RoPE computes besides the plain one


def _read_config(data: dict[str, Any], path: Path) -> ModelSection:
    refuse_biases(data, path, "attention_bias", "mlp_bias")
    return read_decoder(data, path, "llama", ROPE_TYPES)


def _write_config(model: ModelSection) -> dict[str, Any]:
    return {
        "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False,
        **decoder_fields(model),
    }  # fmt: skip


LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    read_config=_read_config,
    write_config=_write_config,
    megatron_tensors=decoder_tensors,
    # RoPE's frequencies, which old checkpoints hold
    ignored_hf_tensors=re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$|model\.rotary_emb\.inv_freq$"),
)
