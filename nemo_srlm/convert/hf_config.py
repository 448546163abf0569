"""HF `config.json` <-> `config.ModelSection`, and every reason to refuse an architecture. Pure Python: no torch."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert import mapping
from nemo_srlm.errors import CheckpointError

DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}  # HF's name -> ours
HF_DTYPES = {ours: hf for hf, ours in DTYPES.items()}
ROPE_TYPES = ("linear", "llama3")  # what Megatron-core's RoPE computes besides the plain one
# What the weights and the forward pass depend on; the rest of ModelSection is how we train.
COMPARED = (
    "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "vocab_size",
    "max_length", "norm_epsilon", "rope_theta", "rope_scaling", "tie_embeddings",
)  # fmt: skip


@dataclass(frozen=True)
class HfConfig:
    model: ModelSection
    dtype: str | None  # fp32 | bf16 | fp16 as the config states it, None when it is silent


def read(directory: Path) -> HfConfig:
    """The architecture of an HF model directory. Raises CheckpointError when it is absent, malformed or not Llama's."""
    path = directory / "config.json"
    if not path.exists():
        raise CheckpointError(
            directory, "no config.json", "an HF model directory (config.json, *.safetensors, tokenizer files)"
        )
    return parse(read_object(path), path)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. CheckpointError for anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"not JSON ({error})") from error
    if not isinstance(data, dict):
        raise CheckpointError(path, f"a JSON {type(data).__name__}", "an object")
    return data


def parse(data: dict[str, Any], path: Path) -> HfConfig:
    _refuse_foreign(data, path)

    def size(name: str, default: int | None = None) -> int:
        value = data.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(path, f"{name} = {value!r}", "a positive integer")
        return value

    heads, hidden = size("num_attention_heads"), size("hidden_size")
    if hidden % heads or size("head_dim", hidden // heads) != hidden // heads:
        raise CheckpointError(path, f"hidden_size {hidden}, {heads} heads, head_dim {data.get('head_dim')}",
                              "head_dim = hidden_size / num_attention_heads")  # fmt: skip
    theta, scaling = _rope(data, path)
    model = ModelSection(
        num_layers=size("num_hidden_layers"),
        hidden_size=hidden,
        ffn_hidden_size=size("intermediate_size"),
        num_attention_heads=heads,
        num_query_groups=size("num_key_value_heads", heads),
        vocab_size=size("vocab_size"),
        max_length=size("max_position_embeddings", 2048),
        norm_epsilon=float(data.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_embeddings=bool(data.get("tie_word_embeddings", False)),
        init_std=float(data.get("initializer_range", 0.02)),
    )
    mapping.check(model, path)
    stated = data.get("dtype", data.get("torch_dtype"))
    if stated is not None and stated not in DTYPES:
        raise CheckpointError(path, f"dtype {stated!r}", f"one of {sorted(DTYPES)}")
    return HfConfig(model, DTYPES[stated] if stated else None)


def _refuse_foreign(data: dict[str, Any], path: Path) -> None:
    architectures = data.get("architectures") or ["LlamaForCausalLM"]
    if data.get("model_type") != "llama" or architectures != ["LlamaForCausalLM"]:
        raise CheckpointError(
            path, f"model_type {data.get('model_type')!r}, architectures {architectures}",
            "model_type 'llama', LlamaForCausalLM: the only mapping that this project has",
        )  # fmt: skip
    for name in ("attention_bias", "mlp_bias"):
        if data.get(name):
            raise CheckpointError(path, f"{name} is true", "a Llama without biases")
    if data.get("hidden_act", "silu") != "silu":
        raise CheckpointError(path, f"hidden_act {data['hidden_act']!r}", "'silu'")
    if data.get("quantization_config"):
        raise CheckpointError(path, "quantised weights", "fp32, bf16 or fp16", "convert from the unquantised model")


def _rope(data: dict[str, Any], path: Path) -> tuple[float, dict[str, Any]]:
    """(theta, scaling) from the old form (rope_theta, rope_scaling) or the new one (rope_parameters)."""
    parameters = data.get("rope_parameters") or {}
    scaling = dict(data.get("rope_scaling") or parameters)
    theta = parameters.get("rope_theta", data.get("rope_theta", scaling.get("rope_theta", 10000.0)))
    scaling.pop("rope_theta", None)
    kind = scaling.pop("type", None)
    kind = scaling.pop("rope_type", kind) or "default"
    if kind == "default":
        return float(theta), {}
    if kind not in ROPE_TYPES:
        raise CheckpointError(path, f"rope scaling of type {kind!r}", f"none, or one of {ROPE_TYPES}")
    return float(theta), {"rope_type": kind, **scaling}


def differences(found: ModelSection, wanted: ModelSection) -> list[str]:
    """`model.hidden_size: 4096 -> 8192` for every field in which two architectures differ."""
    ours, theirs = dataclasses.asdict(wanted), dataclasses.asdict(found)
    return [f"model.{name}: {ours[name]} -> {theirs[name]}" for name in COMPARED if ours[name] != theirs[name]]


def render(model: ModelSection, dtype: str, special: dict[str, int]) -> dict[str, Any]:
    """config.json of a model that transformers 4 and 5 and vLLM read alike. `special`: bos_token_id, eos_token_id, ..."""
    rope = model.rope_scaling or {"rope_type": "default"}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "head_dim": model.hidden_size // model.num_attention_heads,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.max_length,
        "rms_norm_eps": model.norm_epsilon,
        "initializer_range": model.init_std,
        "tie_word_embeddings": model.tie_embeddings,
        "rope_theta": model.rope_theta,
        "rope_scaling": model.rope_scaling or None,
        "rope_parameters": {"rope_theta": model.rope_theta, **rope},
        "torch_dtype": HF_DTYPES[dtype],
        "dtype": HF_DTYPES[dtype],
        "use_cache": True,
        **special,
    }
