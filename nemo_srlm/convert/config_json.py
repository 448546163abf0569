"""The fields of a config.json that families of decoder models share: reading them with checks, and writing them. No torch."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from nemo_srlm.config.training import ModelSection, check_heads, head_size
from nemo_srlm.errors import CheckpointError


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError for anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"not JSON ({error})") from error
    if not isinstance(data, dict):
        raise CheckpointError(path, f"a JSON {type(data).__name__}", "an object")
    return data


def read_decoder(data: dict[str, Any], path: Path, family: str, rope_types: Collection[str]) -> ModelSection:
    """The architecture of a decoder with grouped-query attention, RoPE, RMSNorm and SwiGLU.

    `rope_types`: the kinds of RoPE scaling that the family supports besides none. Raises CheckpointError for a field that
    is absent, no positive integer where it must be one, or contradicts another, and for another activation.
    """
    if data.get("hidden_act", "silu") != "silu":
        raise CheckpointError(path, f"hidden_act {data['hidden_act']!r}", "'silu'")
    heads, hidden = _size(data, path, "num_attention_heads"), _size(data, path, "hidden_size")
    stated = _size(data, path, "head_dim", 0)
    if not stated and hidden % heads:
        raise CheckpointError(path, f"hidden_size {hidden}, {heads} heads, no head_dim",
                              "head_dim, or a hidden_size that the heads divide")  # fmt: skip
    theta, scaling = _rope(data, path, rope_types)
    model = ModelSection(
        family=family,
        num_layers=_size(data, path, "num_hidden_layers"),
        hidden_size=hidden,
        ffn_hidden_size=_size(data, path, "intermediate_size"),
        num_attention_heads=heads,
        num_query_groups=_size(data, path, "num_key_value_heads", heads),
        head_dim=0 if stated == head_size(hidden, heads, 0) else stated,
        vocab_size=_size(data, path, "vocab_size"),
        max_length=_size(data, path, "max_position_embeddings", 2048),
        norm_epsilon=float(data.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_embeddings=bool(data.get("tie_word_embeddings", False)),
        init_std=float(data.get("initializer_range", 0.02)),
    )
    check_heads(model, path)
    return model


def refuse_biases(data: dict[str, Any], path: Path, *switches: str) -> None:
    """Raises CheckpointError when one of the fields that add biases to linear layers is set."""
    for name in switches:
        if data.get(name):
            raise CheckpointError(path, f"{name} is true", f"a {data.get('model_type')} without these biases")


def refuse_window(data: dict[str, Any], path: Path) -> None:
    """Raises CheckpointError when `sliding_window` hides positions from each other.

    A window as long as the longest sequence hides nothing, and is dropped.
    """
    window, positions = data.get("sliding_window"), data.get("max_position_embeddings")
    if window is not None and (not isinstance(positions, int) or window < positions):
        raise CheckpointError(
            path, f"sliding_window {window} for max_position_embeddings {positions}",
            "attention to all positions: sliding-window attention is not implemented here",
            f"in sequences of at most {window} tokens the window hides nothing: for those, set max_position_embeddings to "
            f"{window} in a copy of config.json",
        )  # fmt: skip


def decoder_fields(model: ModelSection) -> dict[str, Any]:
    """The fields that `read_decoder` reads, in the forms of transformers 4 and 5."""
    rope = model.rope_scaling or {"rope_type": "default"}
    return {
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "head_dim": model.head_size,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.max_length,
        "rms_norm_eps": model.norm_epsilon,
        "initializer_range": model.init_std,
        "tie_word_embeddings": model.tie_embeddings,
        "rope_theta": model.rope_theta,
        "rope_scaling": model.rope_scaling or None,
        "rope_parameters": {"rope_theta": model.rope_theta, **rope},
    }


def _size(data: dict[str, Any], path: Path, name: str, default: int | None = None) -> int:
    """A positive integer; `default` where the field is absent or null."""
    value = data.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or value < 1:
        raise CheckpointError(path, f"{name} = {value!r}", "a positive integer")
    return value


def _rope(data: dict[str, Any], path: Path, types: Collection[str]) -> tuple[float, dict[str, Any]]:
    """(theta, scaling) from the form of transformers 4 (rope_theta, rope_scaling) or 5 (rope_parameters)."""
    parameters: dict[str, Any] = data.get("rope_parameters") or {}
    scaling: dict[str, Any] = dict(data.get("rope_scaling") or parameters)
    theta: Any = parameters.get("rope_theta", data.get("rope_theta", scaling.get("rope_theta", 10000.0)))
    scaling.pop("rope_theta", None)
    kind = scaling.pop("type", None)
    kind = scaling.pop("rope_type", kind) or "default"
    if kind == "default":
        return float(theta), {}
    if kind not in types:
        raise CheckpointError(path, f"rope scaling of type {kind!r}", f"none, or one of {tuple(types)}")
    return float(theta), {"rope_type": kind, **scaling}
