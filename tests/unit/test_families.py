"""A model family is one file and one line in a table: a made-up family converts exactly, in both directions."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_srlm.config.fields import rules
from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert import hf_config
from nemo_srlm.convert.config_json import decoder_fields, read_decoder
from nemo_srlm.convert.export_hf import export_hf
from nemo_srlm.convert.families.family import Family
from nemo_srlm.convert.families.llama import LLAMA
from nemo_srlm.convert.families.table import FAMILIES
from nemo_srlm.convert.import_hf import import_hf
from nemo_srlm.convert.mapping import MegatronTensor
from nemo_srlm.convert.verify import verify
from nemo_srlm.errors import CheckpointError
from tests.unit import tiny_llama


def read_config(data: dict[str, Any], path: Path) -> ModelSection:
    return read_decoder(data, path, "toy", rope_types=())


def toy_tensors(model: ModelSection) -> Iterator[MegatronTensor]:
    """Llama's tensors under other HF names."""
    for tensor in LLAMA.megatron_tensors(model):
        blocks = (replace(block, hf_name=block.hf_name.replace("model.", "toy.")) for block in tensor.blocks)
        yield replace(tensor, blocks=tuple(blocks))


TOY = Family("toy", "ToyForCausalLM", read_config, decoder_fields, toy_tensors, re.compile("no such name"))


def test_a_family_is_one_record_and_one_line_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(FAMILIES, "toy", TOY)
    model = replace(tiny_llama.SHAPES["head_dim"], family="toy")
    made = tiny_llama.make(tmp_path / "hf", model)
    assert "toy.layers.0.self_attn.q_proj.weight" in made
    assert hf_config.read(tmp_path / "hf").model == model
    import_hf(tmp_path / "hf", tmp_path / "mg", expected=model)
    export_hf(tmp_path / "mg", tmp_path / "back", model)
    assert tiny_llama.equal_bits(tiny_llama.read(tmp_path / "back"), made)
    assert verify(tmp_path / "back", tmp_path / "mg", level="round_trip")["passed"]


def test_a_directory_of_another_family_than_the_configs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(FAMILIES, "toy", TOY)
    model = replace(tiny_llama.SIZES, family="toy")
    tiny_llama.make(tmp_path / "hf", model)
    with pytest.raises(CheckpointError, match=r"model\.family: llama -> toy"):
        import_hf(tmp_path / "hf", tmp_path / "mg", expected=tiny_llama.SIZES)


def test_the_table_holds_what_the_config_can_name():
    assert tuple(FAMILIES) == rules(ModelSection)["family"].choices
