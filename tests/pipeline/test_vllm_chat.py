"""vLLM's own chat tokenisation of exported models: LLM.chat reads the ids that were trained, and stops at their end token."""

from dataclasses import replace
from pathlib import Path

import pytest

from nemo_srlm.config.generation import ChatSection, GenerateSection
from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert.export_hf import export_hf
from nemo_srlm.convert.import_hf import import_hf
from nemo_srlm.convert.tokenizer_files import copy_as_read
from nemo_srlm.data.chat import Chat, assistant, user
from nemo_srlm.data.tokenizer import Tokenizer
from nemo_srlm.generate.vllm_options import set_environment
from tests.unit import tiny_llama
from tests.unit.chat_families import FAMILIES

pytestmark = pytest.mark.slow

MODEL = ModelSection(  # head size 32: the smallest of vLLM's CPU attention
    num_layers=1, hidden_size=64, ffn_hidden_size=64, num_attention_heads=2, num_query_groups=1, vocab_size=600,
    max_length=512,
)  # fmt: skip
TALK = [
    user("What is the capital of France?\n 東京 🙂"),
    assistant("It's Paris."),
    user("Why? 17.50"),
    assistant("So."),
]


@pytest.mark.parametrize("name", ["llama_2_chat", "qwen3"])  # what transformers builds anew; no begin token
def test_vllm_reads_a_chat_as_it_was_trained(name: str, tmp_path: Path):
    source = FAMILIES[name].make(tmp_path / "hf")
    tiny_llama.make(source, replace(MODEL), "fp32")
    copy_as_read(source, tmp_path / "tokenizer")
    import_hf(source, tmp_path / "mg")
    export_hf(tmp_path / "mg", tmp_path / "out", MODEL, tokenizer=tmp_path / "tokenizer")
    set_environment(GenerateSection(), on_gpu=False)
    from vllm import LLM, SamplingParams

    chat = Chat.of(Tokenizer(tmp_path / "out"), ChatSection(format="model"))
    llm = LLM(
        str(tmp_path / "out"), dtype="float32", max_model_len=512, enforce_eager=True, max_num_seqs=4,
        kv_cache_memory_bytes=1 << 26, enable_chunked_prefill=False, max_num_batched_tokens=512,
    )  # fmt: skip
    asked = [TALK[:1], TALK[:3]]
    outputs = llm.chat(asked, SamplingParams(max_tokens=1, temperature=0.0), use_tqdm=False)
    assert [o.prompt_token_ids for o in outputs] == [chat.next_turn_ids(messages) for messages in asked]
    trained = chat.conversation(TALK).ids.tolist()
    assert trained[: len(outputs[1].prompt_token_ids)] == outputs[1].prompt_token_ids
    llm.llm_engine.engine_core.shutdown()
