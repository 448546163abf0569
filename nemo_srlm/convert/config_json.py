"""The fields of a config.json that families of decoder models share: reading them with checks, and writing them. No torch."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import rules
from nemo_srlm.config.training import ModelSection, check_heads, check_rope, head_size
from nemo_srlm.core.files import read_json
from nemo_srlm.errors import CheckpointError, ConfigError, DataError


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises CheckpointError for anything else."""
    try:
        data = read_json(path)
    except DataError as error:
        raise CheckpointError(path, error.found, "a JSON object", "fetch it again") from error
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
        norm_epsilon=_real(data.get("rms_norm_eps", 1e-6), path, "rms_norm_eps"),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_embeddings=_switch(data, path, "tie_word_embeddings"),
        init_std=_real(data.get("initializer_range", 0.02), path, "initializer_range"),
    )
    for name, rule in rules(ModelSection).items():
        if name != "family" and not rule.permits(getattr(model, name)):
            raise CheckpointError(path, f"model.{name} = {getattr(model, name)!r}", rule.expected(getattr(model, name)))
    check_heads(model, path, "num_key_value_heads")
    try:
        check_rope(model)
    except ConfigError as error:
        raise CheckpointError(path, f"rope_scaling: {error.found}", error.expected) from error
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
    if window is not None and type(window) is not int:
        raise CheckpointError(path, f"sliding_window {window!r}", "a whole number, or null")
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
    if type(value) is not int or value < 1:
        raise CheckpointError(path, f"{name} = {value!r}", "a positive integer")
    return value


def _real(value: Any, path: Path, name: str) -> float:
    """A positive finite number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e300:
        return float(value)
    raise CheckpointError(path, f"{name} = {value!r}", "a positive number")


def _switch(data: dict[str, Any], path: Path, name: str) -> bool:
    value = data.get(name) or False
    if not isinstance(value, bool):
        raise CheckpointError(path, f"{name} = {value!r}", "true or false")
    return value


def _object(data: dict[str, Any], path: Path, name: str) -> dict[str, Any]:
    """A copy of an object of numbers, texts and null; {} where the field is absent or null."""
    value = data.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(
        isinstance(item, (int, float, str, type(None))) for item in value.values()
    ):
        raise CheckpointError(path, f"{name} = {value!r}", "an object of numbers and texts")
    return dict(value)


def _rope(data: dict[str, Any], path: Path, types: Collection[str]) -> tuple[float, dict[str, Any]]:
    """(theta, scaling) from the form of transformers 4 (rope_theta, rope_scaling) or 5 (rope_parameters)."""
    parameters = _object(data, path, "rope_parameters")
    scaling = _object(data, path, "rope_scaling") or dict(parameters)
    both = [_real(d["rope_theta"], path, "rope_theta") for d in (data, parameters) if d.get("rope_theta") is not None]
    if len(set(both)) > 1:
        raise CheckpointError(path, f"rope_theta {both[0]} and {both[1]}", "one value", "fetch it again")
    theta: Any = parameters.get("rope_theta", data.get("rope_theta", scaling.get("rope_theta", 10000.0)))
    scaling.pop("rope_theta", None)
    kind = scaling.pop("type", None)
    kind = scaling.pop("rope_type", kind) or "default"
    if kind == "default":
        return _real(theta, path, "rope_theta"), {}
    if kind not in types:
        raise CheckpointError(path, f"rope scaling of type {kind!r}", f"none, or one of {tuple(types)}")
    return _real(theta, path, "rope_theta"), {"rope_type": kind, **scaling}
