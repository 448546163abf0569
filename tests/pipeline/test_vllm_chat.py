"""vLLM's own chat tokenisation of exported models: LLM.chat reads the ids that were trained, and stops at their end token.

Six families through the half of LLM.chat that makes the engine's input, one of them (transformers builds its tokenizer anew)
with the engine behind it.
"""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from nemo_srlm.config.generation import ChatSection, GenerateSection
from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert.export_hf import export_hf
from nemo_srlm.convert.import_hf import import_hf
from nemo_srlm.convert.tokenizer_files import copy_as_read
from nemo_srlm.data.chat import Chat, assistant, user
from nemo_srlm.data.chat_template import DATE
from nemo_srlm.data.tokenizer import Tokenizer
from nemo_srlm.generate.vllm_options import set_environment
from tests.unit import tiny_llama
from tests.unit.chat_families import FAMILIES

pytestmark = pytest.mark.slow

LENGTH = 512
MODEL = ModelSection(  # head size 32: the smallest of vLLM's CPU attention
    num_layers=1, hidden_size=64, ffn_hidden_size=64, num_attention_heads=2, num_query_groups=1, vocab_size=600,
    max_length=LENGTH,
)  # fmt: skip
MODELS = {
    "llama_2_chat": MODEL,
    "llama_3": MODEL,
    "smollm2": replace(MODEL, tie_embeddings=True),
    "mistral": replace(MODEL, family="mistral"),
    "qwen2_5": replace(MODEL, family="qwen2"),
    "qwen3": replace(MODEL, family="qwen3", head_dim=32),
}
TALK = [
    user("What is the capital of France?\n 東京 🙂"),
    assistant("It's Paris."),
    user("Why? 17.50"),
    assistant("So."),
    user(" <b>And Zürich?"),
    assistant("On a lake."),
]
ASKED = [TALK[:1], TALK[:3], TALK[:5]]


def exported(name: str, root: Path) -> tuple[Path, Chat]:
    """A tiny model of the family with its own tokenizer and template, imported and exported; the chat format of the export."""
    source = FAMILIES[name].make(root / "hf")
    tiny_llama.make(source, MODELS[name], "fp32")
    copy_as_read(source, root / "tokenizer")
    import_hf(source, root / "mg")
    export_hf(root / "mg", root / "out", MODELS[name], tokenizer=root / "tokenizer")
    return root / "out", Chat.of(Tokenizer(root / "out"), ChatSection(format="model"))


@pytest.mark.parametrize("name", MODELS)
def test_vllm_reads_one_turn_and_several_as_they_were_trained(name: str, tmp_path: Path):
    if name == "mistral" and not find_spec("tiktoken"):
        pytest.skip("an environment from before mistral_common was installed with what it imports: `make venv`")
    out, chat = exported(name, tmp_path)
    set_environment(GenerateSection(), on_gpu=False)
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs
    from vllm.renderers import renderer_from_config

    config = EngineArgs(
        model=str(out), dtype="float32", max_model_len=LENGTH, enforce_eager=True
    ).create_engine_config()
    llm = object.__new__(LLM)  # without an engine: LLM.chat's own first half is all that is called
    llm.model_config, llm.renderer, llm.chat_template = config.model_config, renderer_from_config(config), None
    date = {"date_string": DATE.strftime("%d %b %Y")}  # Llama 3's template asks vLLM for today's
    read = [list(found["prompt_token_ids"]) for found in llm._preprocess_chat(ASKED, chat_template_kwargs=date)]
    assert read == [chat.next_turn_ids(messages) for messages in ASKED]
    trained = chat.conversation(TALK).ids.tolist()
    assert all(trained[: len(ids)] == ids for ids in read)
    assert MODELS.keys() == FAMILIES.keys()


def test_vllm_generates_after_a_chat_as_it_was_trained(tmp_path: Path):
    out, chat = exported("llama_2_chat", tmp_path)
    set_environment(GenerateSection(), on_gpu=False)
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(out), dtype="float32", max_model_len=LENGTH, enforce_eager=True, max_num_seqs=4,
        kv_cache_memory_bytes=1 << 26, enable_chunked_prefill=False, max_num_batched_tokens=LENGTH,
    )  # fmt: skip
    outputs = llm.chat(ASKED, SamplingParams(max_tokens=1, temperature=0.0), use_tqdm=False)
    assert [o.prompt_token_ids for o in outputs] == [chat.next_turn_ids(messages) for messages in ASKED]
    llm.llm_engine.engine_core.shutdown()
