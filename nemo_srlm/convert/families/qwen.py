"""Qwen2 and Qwen2.5 (model_type `qwen2`: QKV biases), Qwen3 (`qwen3`: norms of queries and keys, a head size of its own)."""

from pathlib import Path
from typing import Any

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert.config_json import decoder_fields, read_decoder, refuse_biases, refuse_window
from nemo_srlm.convert.families.decoder import decoder_tensors
from nemo_srlm.convert.families.family import Family
from nemo_srlm.convert.families.llama import LLAMA

# The defaults of Qwen2Config and Qwen3Config, where they differ from Llama's: what an absent field means
DEFAULTS_2 = {"num_key_value_heads": 32, "max_position_embeddings": 32768}
DEFAULTS_3 = {**DEFAULTS_2, "head_dim": 128}


def _refuse_window(data: dict[str, Any], path: Path) -> None:
    """Qwen has its window in the layers from `max_window_layers` on, and only if `use_sliding_window` says so."""
    layers = data.get("layer_types")
    some = "sliding_attention" in layers if layers else data.get("max_window_layers", 28) < data["num_hidden_layers"]
    if data.get("use_sliding_window") and some:
        refuse_window({"sliding_window": 4096, **data}, path)


def _read_qwen2(data: dict[str, Any], path: Path) -> ModelSection:
    data = {**DEFAULTS_2, **data}
    model = read_decoder(data, path, "qwen2", rope_types=())
    _refuse_window(data, path)
    return model


def _read_qwen3(data: dict[str, Any], path: Path) -> ModelSection:
    data = {**DEFAULTS_3, **data}
    refuse_biases(data, path, "attention_bias")
    model = read_decoder(data, path, "qwen3", rope_types=())
    _refuse_window(data, path)
    return model


def _write_qwen2(model: ModelSection) -> dict[str, Any]:
    return {
        "hidden_act": "silu", "attention_dropout": 0.0, "use_sliding_window": False, "sliding_window": None,
        "max_window_layers": model.num_layers, **decoder_fields(model),
    }  # fmt: skip


def _write_qwen3(model: ModelSection) -> dict[str, Any]:
    return {**_write_qwen2(model), "attention_bias": False}


QWEN2 = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    read_config=_read_qwen2,
    write_config=_write_qwen2,
    megatron_tensors=decoder_tensors,
    ignored_hf_tensors=LLAMA.ignored_hf_tensors,
)
QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    read_config=_read_qwen3,
    write_config=_write_qwen3,
    megatron_tensors=decoder_tensors,
    ignored_hf_tensors=LLAMA.ignored_hf_tensors,
)
