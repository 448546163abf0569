"""Tokens that are parts of a character: byte-level vocabularies write most Chinese, Japanese and Thai characters in several.

Where a text ends inside of one, or a model writes bytes that are none, decoding gives U+FFFD.
"""

from pathlib import Path

import pytest

from nemo_srlm.config.generation import PromptsSection
from nemo_srlm.core.records import Prompt
from nemo_srlm.data.prompt_filters import PromptFilter
from nemo_srlm.data.tokenizer import Tokenizer
from nemo_srlm.generate.requests import Completion
from nemo_srlm.generate.responses import response_metrics, to_candidates
from nemo_srlm.generate.vllm_engine import VllmBackend
from tests.unit import tiny_llama
from tests.unit.test_openai_engine import Start, requests, start  # noqa: F401

TEXT = "答えは山ภูเขา"


@pytest.fixture
def backend(tmp_path: Path) -> VllmBackend:
    """The engine's reading of tokens, without vLLM; every token is one byte."""
    tiny_llama.make_tokenizer(tmp_path, vocab_size=300)
    made = VllmBackend.__new__(VllmBackend)
    made._tokenizer, made._end_ids = Tokenizer(tmp_path), {1}
    return made


def test_a_text_cut_inside_a_character_ends_before_it(backend: VllmBackend):
    ids = backend._tokenizer.encode(TEXT)
    assert len(ids) == len(TEXT.encode())
    for length in range(len(ids) + 1):
        found = backend._completion(ids[:length], "length", None)
        assert found.text == TEXT.encode()[:length].decode(errors="ignore")
        assert (found.num_tokens, found.token_ids) == (length, tuple(ids[:length]))


def test_bytes_that_a_model_ended_by_itself_stay_to_be_seen_and_are_counted(backend: VllmBackend):
    ids = backend._tokenizer.encode("山")[:2]
    draw = backend._completion([*ids, 1], "stop", None)
    assert draw.text == "\ufffd"
    whole = Completion("山", 3, "stop")
    counts = response_metrics(to_candidates(Prompt("p", "?", "file"), 2, [draw, whole]))
    assert counts["broken_character"] == 1


def test_an_endpoints_text_is_cut_in_the_same_way(start: Start):  # noqa: F811
    made = [{"message": {"content": "答え\ufffd"}, "finish_reason": reason} for reason in ("length", "stop")]
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    engine, _ = start(lambda body, call: (200, {"choices": made, "usage": usage}))
    ((_, outcome),) = engine.stream(requests(1, n=2))
    assert isinstance(outcome, list)
    assert [draw.text for draw in outcome] == ["答え", "答え\ufffd"]


def test_a_written_prompt_with_such_bytes_is_rejected():
    section = PromptsSection(tokenization="unicode", ascii_start=False, min_words=2)
    accepts = PromptFilter(section, [])
    assert accepts.accept(["山の高さを\ufffd教えて", "山の高さを教えて"]) == ["broken_character", ""]
