"""An HF `config.json` <-> `config.ModelSection`, by the family of the model. No torch."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert.config_json import read_object
from nemo_srlm.convert.families.table import family_of, family_of_config
from nemo_srlm.errors import CheckpointError

DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}  # HF's name -> ours
HF_DTYPES = {ours: hf for hf, ours in DTYPES.items()}
# What the weights and the forward pass depend on; the other fields of ModelSection concern training.
COMPARED = (
    "family", "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "head_dim",
    "vocab_size", "max_length", "norm_epsilon", "rope_theta", "rope_scaling", "tie_embeddings",
)  # fmt: skip


@dataclass(frozen=True)
class HfConfig:
    model: ModelSection
    dtype: str | None  # fp32 | bf16 | fp16 as the config states it, None when it does not


def read(directory: Path) -> HfConfig:
    """The architecture of an HF model directory. CheckpointError when config.json is absent, malformed or not supported."""
    path = directory / "config.json"
    if not path.exists():
        raise CheckpointError(
            directory, "no config.json", "an HF model directory (config.json, *.safetensors, tokenizer files)"
        )
    return parse(read_object(path), path)


def parse(data: dict[str, Any], path: Path) -> HfConfig:
    """`read` for the content of a config.json; `path` is for messages."""
    family = family_of_config(data, path)
    if data.get("quantization_config"):
        raise CheckpointError(path, "quantised weights", "fp32, bf16 or fp16", "convert from the unquantised model")
    model = family.read_config(data, path)
    stated = data.get("dtype", data.get("torch_dtype"))
    for value in (data.get("dtype"), data.get("torch_dtype")):
        if value is not None and (not isinstance(value, str) or value not in DTYPES):
            raise CheckpointError(path, f"dtype {value!r}", f"one of {sorted(DTYPES)}")
    return HfConfig(model, DTYPES[stated] if stated else None)


def differences(found: ModelSection, wanted: ModelSection) -> list[str]:
    """`model.hidden_size: 4096 -> 8192` (wanted -> found) for every field in which two architectures differ."""
    ours, theirs = ({**dataclasses.asdict(model), "head_dim": model.head_size} for model in (wanted, found))
    return [f"model.{name}: {ours[name]} -> {theirs[name]}" for name in COMPARED if ours[name] != theirs[name]]


def render(model: ModelSection, dtype: str, special: dict[str, int]) -> dict[str, Any]:
    """config.json for transformers 4 and 5 and vLLM. `dtype` fp32 | bf16 | fp16; `special`: bos_token_id, ..."""
    family = family_of(model)
    return {
        "architectures": [family.architecture],
        "model_type": family.name,
        **family.write_config(model),
        "torch_dtype": HF_DTYPES[dtype],
        "dtype": HF_DTYPES[dtype],
        "use_cache": True,
        **special,
    }
