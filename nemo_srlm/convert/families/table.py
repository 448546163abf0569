"""The table of model families, and what the conversion asks of the one that a model belongs to."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_srlm.config.training import ModelSection, check_heads
from nemo_srlm.convert import mapping
from nemo_srlm.convert.families.family import Family
from nemo_srlm.convert.families.llama import LLAMA
from nemo_srlm.convert.families.mistral import MISTRAL
from nemo_srlm.convert.families.qwen import QWEN2, QWEN3
from nemo_srlm.convert.mapping import HfTensor, MegatronTensor
from nemo_srlm.errors import CheckpointError

# the same names as the choices of model.family
FAMILIES = {family.name: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3)}

GEMMA3 = "it has layers with a sliding window and a RoPE of their own, and norms on both sides of attention and MLP"
# Why some known architectures do not convert: Megatron-core has no option for it, so the layer itself would be new.
REFUSED = {
    "olmo2": "it has a norm of the whole query and key (not of each head), and norms after attention and MLP",
    "gemma2": "it has layers with a sliding window, softcapped logits and norms on both sides of attention and MLP",
    "gemma3": GEMMA3,
    "gemma3_text": GEMMA3,
    "phi3": "its query, key and value are one tensor, as are gate and up, and RoPE is scaled by longrope",
    "mixtral": "it has experts",
    "qwen2_moe": "it has experts",
    "qwen3_moe": "it has experts",
}


def family_of(model: ModelSection) -> Family:
    return FAMILIES[model.family]


def family_of_config(data: dict[str, Any], path: Path) -> Family:
    """The family of a config.json. Raises CheckpointError, which lists the table, when there is none."""
    family = FAMILIES.get(str(data.get("model_type")))
    architectures = data.get("architectures")
    if family is None or (architectures or [family.architecture]) != [family.architecture]:
        known = ", ".join(f"model_type {f.name!r} with {f.architecture}" for f in FAMILIES.values())
        reason = REFUSED.get(str(data.get("model_type")), "")
        raise CheckpointError(
            path, f"model_type {data.get('model_type')!r}, architectures {architectures}{reason and f': {reason}'}",
            f"one of the families that can be converted: {known}", "docs/extending.md says how to add one",
        )  # fmt: skip
    return family


def megatron_tensors(model: ModelSection) -> Iterator[MegatronTensor]:
    """Every parameter of the model once, in the order of the layers. ConfigError when its sizes contradict each other."""
    check_heads(model)
    return family_of(model).megatron_tensors(model)


def hf_tensors(model: ModelSection) -> Iterator[HfTensor]:
    """Every HF tensor of the model once."""
    return mapping.hf_tensors(megatron_tensors(model))


def num_parameters(model: ModelSection) -> int:
    return sum(math.prod(tensor.shape) for tensor in megatron_tensors(model))
