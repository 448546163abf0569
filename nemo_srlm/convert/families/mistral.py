"""Mistral (model_type `mistral`, MistralForCausalLM) without a sliding window: Llama's tensors."""

from pathlib import Path
from typing import Any

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert.config_json import decoder_fields, read_decoder, refuse_window
from nemo_srlm.convert.families.decoder import decoder_tensors
from nemo_srlm.convert.families.family import Family
from nemo_srlm.convert.families.llama import LLAMA

# MistralConfig's defaults, where they differ from Llama's: what an absent field means
DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096}


def _read_config(data: dict[str, Any], path: Path) -> ModelSection:
    data = {**DEFAULTS, **data}
    refuse_window(data, path)
    return read_decoder(data, path, "mistral", rope_types=())


def _write_config(model: ModelSection) -> dict[str, Any]:
    return {"hidden_act": "silu", "attention_dropout": 0.0, "sliding_window": None, **decoder_fields(model)}


MISTRAL = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    read_config=_read_config,
    write_config=_write_config,
    megatron_tensors=decoder_tensors,
    ignored_hf_tensors=LLAMA.ignored_hf_tensors,
)
