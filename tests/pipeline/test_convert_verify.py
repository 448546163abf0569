"""Verification of conversions with real programs: transformers' logits, Megatron's forward, vLLM's greedy tokens, the tool."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nemo_srlm.config.generation import ChatSection
from nemo_srlm.config.schema import Config, ExportSection, ImportSection
from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert.export_hf import export_hf
from nemo_srlm.convert.families.llama import LLAMA
from nemo_srlm.convert.families.table import FAMILIES
from nemo_srlm.convert.import_hf import import_hf
from nemo_srlm.convert.mapping import MegatronTensor
from nemo_srlm.convert.verify import verify
from nemo_srlm.data.chat import Chat
from nemo_srlm.data.tokenizer import Tokenizer
from nemo_srlm.errors import CheckpointError
from nemo_srlm.stages import export_base
from nemo_srlm.stages import import_hf as import_hf_stage
from tests.unit import tiny_llama
from tests.unit.test_convert_stages import run

ROOT = Path(__file__).resolve().parents[2]
MODEL = ModelSection(  # head size 32: the smallest of vLLM's CPU attention
    num_layers=3, hidden_size=128, ffn_hidden_size=160, num_attention_heads=4, num_query_groups=2, vocab_size=261,
    max_length=256, rope_theta=5000.0,
)  # fmt: skip
MG, OUT = "m0/checkpoint/final", "export/hf"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hf: the original in fp32; MG: its import; OUT: the export of MG, verified by the export stage at the highest level."""
    root = tmp_path_factory.mktemp("model")
    tiny_llama.make(root / "hf", MODEL, "fp32")
    tiny_llama.make_tokenizer(root / "hf", 259)
    cfg = Config(model=MODEL, import_hf=ImportSection(path=str(root / "hf")), export=ExportSection(verify="vllm"),
                 chat=ChatSection("Q: ", "\nA:"))  # fmt: skip
    run(import_hf_stage.STAGE, cfg, root / "m0")
    found = run(export_base.STAGE, cfg, root / "export", policy=root / "m0", tokenizer=root / "m0")
    assert found["verified"] == "vllm"
    return root


def test_the_card_shows_equal_logits_and_equal_greedy_tokens(model: Path):
    card = json.loads((model / OUT).with_name("hf.verification.json").read_text())
    assert card["passed"]
    assert card["round_trip"]["different"] == []
    assert card["logits"]["max_abs"] <= 1e-4
    assert card["logits"]["largest_logit"] > 1  # the compared logits are not all near zero
    assert (card["logits"]["layers"], card["logits"]["of_layers"]) == (3, 3)
    assert len(card["vllm"]["greedy_ids"]) > 8
    assert len(set(card["vllm"]["greedy_ids"])) > 2
    assert card["vllm"]["greedy_ids"] == card["vllm"]["transformers_ids"]


def test_transformers_renders_and_encodes_the_chat_as_the_trainer_does(model: Path):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(model / OUT)
    chat = Chat.of(Tokenizer(model / OUT), ChatSection("Q: ", "\nA:"))
    messages = [{"role": "user", "content": "Why?  Because."}]
    assert theirs.apply_chat_template(messages, tokenize=True)["input_ids"] == chat.prompt_ids("Why?  Because.")


def test_the_tool_compares_the_first_layers_of_a_model_too_large_for_memory(model: Path, tmp_path: Path):
    shutil.copytree(model / OUT, tmp_path / "out")  # another card
    command = [sys.executable, "tools/convert.py", "verify", str(tmp_path / "out"), str(model / MG), "--layers", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "logits differ by at most" in done.stdout
    card = json.loads((tmp_path / "out.verification.json").read_text())
    assert (card["logits"]["layers"], card["logits"]["of_layers"]) == (2, 3)
    assert card["logits"]["max_abs"] <= 1e-4


def test_swapped_projections_pass_no_comparison_of_logits(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A mapping that is wrong in both directions: an exact round trip alone does not detect it."""

    def swapped(asked: ModelSection) -> Iterator[MegatronTensor]:
        for tensor in LLAMA.megatron_tensors(asked):
            if tensor.key.endswith("linear_fc1.weight"):
                gate, up = tensor.blocks
                blocks = (replace(gate, hf_name=up.hf_name), replace(up, hf_name=gate.hf_name))
                yield replace(tensor, blocks=blocks)
            else:
                yield tensor

    monkeypatch.setitem(FAMILIES, "llama", replace(LLAMA, megatron_tensors=swapped))
    import_hf(model / "hf", tmp_path / "mg")
    export_hf(tmp_path / "mg", tmp_path / "out", MODEL)
    with pytest.raises(CheckpointError, match="logits differ by up to"):
        verify(tmp_path / "out", tmp_path / "mg")
    card = json.loads((tmp_path / "out.verification.json").read_text())
    assert card["round_trip"]["different"] == []


def test_transformers_own_weights_come_back_equal(tmp_path: Path):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=88, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=101, max_position_embeddings=64, tie_word_embeddings=True,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
    )  # fmt: skip
    net = LlamaForCausalLM(config).bfloat16()
    net.save_pretrained(tmp_path / "hf", max_shard_size="50KB")
    done = import_hf(tmp_path / "hf", tmp_path / "mg")
    export_hf(tmp_path / "mg", tmp_path / "out", done.model)
    again = LlamaForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    assert tiny_llama.equal_bits(net.state_dict(), again.state_dict())
    assert again.config.rope_parameters == net.config.rope_parameters
    seen: list[float] = []
    card = verify(tmp_path / "out", tmp_path / "mg", report=lambda done, total: seen.append(done / total))
    assert card["logits"]["max_abs"] <= 1e-4
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert any(1 / 3 < x < 1 for x in seen)  # it moves while the logits are computed
    shutil.rmtree(tmp_path / "mg")
