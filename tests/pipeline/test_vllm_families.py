"""Exports of every family in vLLM: greedy tokens and log-probabilities are those of transformers. One process."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nemo_srlm.config.generation import GenerateSection
from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert.export_hf import export_hf
from nemo_srlm.convert.import_hf import import_hf
from nemo_srlm.generate.requests import Request, generate
from nemo_srlm.generate.vllm_engine import VllmEngine
from tests.unit import tiny_llama

pytestmark = pytest.mark.slow

SIZES = ModelSection(  # head size 32: the smallest of vLLM's CPU attention
    num_layers=2, hidden_size=96, ffn_hidden_size=136, num_attention_heads=3, num_query_groups=1, vocab_size=261,
    max_length=256, norm_epsilon=1e-6,
)  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip
FAMILIES = {
    "llama": replace(SIZES, rope_scaling=LLAMA3, rope_theta=5000.0),
    "mistral": replace(SIZES, family="mistral", num_attention_heads=4, num_query_groups=2, head_dim=32),
    "qwen2": replace(SIZES, family="qwen2"),
    "qwen3": replace(
        SIZES, family="qwen3", num_attention_heads=4, num_query_groups=2, head_dim=32, tie_embeddings=True
    ),
}
PROMPTS = [tuple((i * 37 + 5 * k) % 250 + 3 for i in range(20 + 30 * k)) for k in range(3)]
NEW_TOKENS = 16


@pytest.mark.parametrize("name", FAMILIES)
def test_vllm_generates_and_scores_as_transformers_do(name: str, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    tiny_llama.make(tmp_path / "hf", FAMILIES[name], "fp32")
    tiny_llama.make_tokenizer(tmp_path / "hf", 259)
    import_hf(tmp_path / "hf", tmp_path / "mg")
    export_hf(tmp_path / "mg", tmp_path / "out", FAMILIES[name], tokenizer=tmp_path / "hf")
    engine = VllmEngine(tmp_path / "out", GenerateSection(dtype="float32", max_num_seqs=4, enforce_eager=True))
    asked = [Request(str(k), ids, 1, 0, 0.0, 1.0, NEW_TOKENS) for k, ids in enumerate(PROMPTS)]
    asked += [replace(request, id=f"score{request.id}", max_tokens=1, score_from=1) for request in asked]
    outcomes = generate(engine, asked)
    engine.close()
    net = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    for request, outcome in zip(asked, outcomes, strict=True):
        assert isinstance(outcome, list), outcome
        ids = torch.tensor([request.prompt_ids])
        with torch.no_grad():
            if request.score_from:
                logprobs = torch.log_softmax(net(ids).logits[0], -1)
                expected = [float(logprobs[i - 1, ids[0, i]]) for i in range(1, ids.shape[1])]
                assert list(outcome[0].prompt_logprobs) == pytest.approx(expected, abs=1e-4)
                continue
            greedy = net.generate(ids, do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=1, pad_token_id=0)
        tokens = [i for i in greedy[0, ids.shape[1] :].tolist() if i != 1]  # 1 ends the text
        assert list(outcome[0].token_ids) == tokens
        assert len(set(tokens)) > 1
