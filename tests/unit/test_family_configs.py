"""config.json of the shipped families: real sizes against transformers, and what is refused with its reason."""

import copy
from pathlib import Path
from typing import Any

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.convert import hf_config
from nemo_srlm.convert.families import table
from nemo_srlm.errors import UserError

REAL = ("llama2_7b", "llama3_8b", "smollm2_1b", "mistral_7b", "qwen2_7b", "qwen3_4b")
WHERE = Path("model/config.json")


@pytest.mark.parametrize("name", REAL)
def test_a_model_of_a_real_size_has_the_tensors_that_transformers_makes(name: str):
    """On meta tensors: no memory. The two sides share nothing but config.json."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model = compose(name).model
    written = hf_config.render(model, "bf16", {})
    config = AutoConfig.for_model(**copy.deepcopy(written))
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(config)
    theirs = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    if model.tie_embeddings:
        del theirs["lm_head.weight"]
    assert {tensor.name: tensor.shape for tensor in table.hf_tensors(model)} == theirs
    assert hf_config.parse(written, WHERE).model == model
    assert hf_config.parse(config.to_dict(), WHERE).model == model  # as transformers itself writes it


def written(family: str, **changes: Any) -> dict[str, Any]:
    name = {"llama": "llama3_8b", "mistral": "mistral_7b", "qwen2": "qwen2_7b", "qwen3": "qwen3_4b"}[family]
    return {**hf_config.render(compose(name).model, "bf16", {}), **changes}


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("mistral", {"sliding_window": 4096}, "sliding_window 4096 for max_position_embeddings 32768.*not implemented"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 20}, "sliding_window 4096"),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 512, "layer_types": ["sliding_attention"] * 36}, "512"),
        ("qwen2", {"head_dim": 64}, "head_dim"),
        ("qwen3", {"attention_bias": True}, "attention_bias is true"),
        ("llama", {"attention_bias": True}, "attention_bias is true"),
        ("qwen2", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope scaling of type 'yarn'"),
        ("mistral", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("llama", {"model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"]}, "olmo2.*norm of the whole"),
        ("llama", {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]}, "gemma3.*sliding window"),
        ("llama", {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}, "experts"),
        ("llama", {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "one of the families.*'qwen3'"),
    ],
)  # fmt: skip
def test_what_does_not_convert_is_refused_with_its_reason(family: str, changes: dict[str, Any], reason: str):
    with pytest.raises(UserError, match=f"model/config.json.*{reason}"):
        hf_config.parse(written(family, **changes), WHERE)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mistral", {"sliding_window": 4096, "max_position_embeddings": 4096}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 20}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 28}),
    ],
)
def test_a_window_that_hides_nothing_is_accepted(family: str, changes: dict[str, Any]):
    assert hf_config.parse(written(family, **changes), WHERE).model.family == family


def test_an_absent_field_has_its_familys_default():
    """Qwen3Config's head size is 128 where config.json states none; Llama's follows from the hidden size."""
    from transformers import MistralConfig, Qwen2Config, Qwen3Config

    for family, kind in (("mistral", MistralConfig), ("qwen2", Qwen2Config), ("qwen3", Qwen3Config)):
        data = written(family, num_attention_heads=32)
        for name in ("head_dim", "num_key_value_heads", "max_position_embeddings", "sliding_window"):
            data.pop(name, None)
        theirs = kind(**copy.deepcopy(data))
        if family == "mistral":
            with pytest.raises(UserError, match=f"sliding_window {theirs.sliding_window}"):
                hf_config.parse(data, WHERE)
            data["sliding_window"] = None
        model = hf_config.parse(data, WHERE).model
        wanted = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
        assert (model.head_size, model.num_query_groups, model.max_length) == (
            wanted, theirs.num_key_value_heads, theirs.max_position_embeddings,
        )  # fmt: skip
