"""Files other than weights: conversions preserve tokenizer, chat template and generation settings."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest

from nemo_srlm.config.generation import ChatSection
from nemo_srlm.convert import tokenizer_files
from nemo_srlm.convert.export_hf import export_hf
from nemo_srlm.convert.import_hf import import_hf
from nemo_srlm.data.chat import Chat, assistant, user
from nemo_srlm.data.tokenizer import Tokenizer
from nemo_srlm.errors import CheckpointError
from nemo_srlm.evaluate import mtbench
from nemo_srlm.tiny_world.tokenizer import every_word, train
from tests.unit import tiny_llama

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "llama2_tokenizer.model"
TEXT = "The lighthouse keeper's 17 knots: `x += 1`,\n  東京は大きい。 Zürich 🙂"


CHATS = [ChatSection(), ChatSection('Q: "é"\n\t', "\nA: {{ 1 + 1 }} \\n 🙂"), ChatSection("", "")]


def whole_and_parts(directory: Path, chat: ChatSection) -> tuple[str, list[int], list[int]]:
    """A chat as text by the template, the tokens of that text, and the trainer's tokens for the same chat."""
    template = json.loads((directory / "tokenizer_config.json").read_text())["chat_template"]
    assert (directory / "chat_template.jinja").read_text() == template
    question, answer = "What's 2 + 2? <b>", "It is 4."
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    text = jinja2.Template(template).render(messages=messages, bos_token="<s>", eos_token="</s>")
    tokenizer = Tokenizer(directory)
    return text, tokenizer.encode_rendered(text), Chat.of(tokenizer, chat).document(question, answer).ids.tolist()


@pytest.mark.parametrize("chat", CHATS)
def test_the_chat_template_renders_what_the_trainer_encodes(tmp_path: Path, chat: ChatSection):
    tiny_llama.make_tokenizer(tmp_path / "tok", 259)
    tokenizer_files.copy(tmp_path / "tok", tmp_path / "out", 259, chat)
    text, whole, parts = whole_and_parts(tmp_path / "out", chat)
    assert text == f"<s>{chat.user_prefix}What's 2 + 2? <b>{chat.user_suffix}It is 4.</s>"
    assert whole == parts


def test_sentencepieces_blanks_are_in_the_template_of_the_tiny_worlds_tokenizer(tmp_path: Path):
    chat = ChatSection("Q: ", " A:")
    texts = ["Q: What's 2 + 2? <b> A: It is 4. For Why?", *every_word(1)]
    train(tmp_path / "tok", texts * 5, 400, 128)
    tokenizer_files.copy(tmp_path / "tok", tmp_path / "out", 400, chat)
    text, whole, parts = whole_and_parts(tmp_path / "out", chat)
    assert text == "<s>Q: What's 2 + 2? <b> A: It is 4.</s>"
    assert whole == parts


def test_trainer_exported_template_and_mt_bench_agree_on_several_turns(tmp_path: Path):
    from transformers import AutoTokenizer

    chat = ChatSection("Q: ", "\nA:")
    tiny_llama.make_tokenizer(tmp_path / "tok", 259)
    tokenizer_files.copy(tmp_path / "tok", tmp_path / "out", 259, chat)
    question = mtbench.Question(1, "math", ("What's 2 + 2?", "And 3?"))
    messages = [user("What's 2 + 2?"), assistant("4."), user("And 3?"), assistant("5.")]
    ours, theirs = Chat.of(Tokenizer(tmp_path / "out"), chat), AutoTokenizer.from_pretrained(tmp_path / "out")
    trained = ours.conversation(messages).ids.tolist()
    assert trained == theirs.apply_chat_template(messages)["input_ids"]
    assert trained.count(ours.tokenizer.bos_id) == 2
    second = mtbench.turn_request(ours, question, ("4.",), 9, 0).prompt_ids
    assert list(second) == theirs.apply_chat_template(messages[:3])["input_ids"] == trained[: len(second)]


def test_special_token_ids_reach_the_configs(tmp_path: Path):
    model = replace(tiny_llama.SIZES, vocab_size=300)
    tiny_llama.make(tmp_path / "hf", model)
    tiny_llama.make_tokenizer(tmp_path / "hf", 259)
    import_hf(tmp_path / "hf", tmp_path / "mg")
    export_hf(tmp_path / "mg", tmp_path / "back", model, tokenizer=tmp_path / "hf", chat=ChatSection())
    for file in ("config.json", "generation_config.json"):
        data = json.loads((tmp_path / "back" / file).read_text())
        assert (data["bos_token_id"], data["eos_token_id"]) == (0, 1)


@pytest.fixture(scope="module")
def llama_2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hf: a small model with the files of a Llama 2 chat directory; mg: its import."""
    if not SHARED.exists():
        pytest.skip(f"{SHARED.name} is not there")
    from transformers import LlamaTokenizer

    root = tmp_path_factory.mktemp("llama_2")
    model = replace(tiny_llama.SIZES, num_layers=1, hidden_size=16, vocab_size=32000)
    tiny_llama.make(root / "hf", model)
    shutil.copyfile(SHARED, root / "hf" / "tokenizer.model")
    LlamaTokenizer.from_pretrained(root / "hf").save_pretrained(root / "hf")
    token = {"__type": "AddedToken", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    update(root / "hf" / "tokenizer_config.json", {
        "bos_token": {**token, "content": "<s>"}, "eos_token": {**token, "content": "</s>"}, "pad_token": None,
    })  # fmt: skip
    (root / "hf" / "chat_template.jinja").write_text("{{ bos_token }}[INST] {{ messages[0]['content'] }} [/INST]")
    (root / "hf" / "generation_config.json").write_text(json.dumps(
        {"bos_token_id": 1, "eos_token_id": [2, 13], "pad_token_id": 0, "do_sample": True, "temperature": 0.6, "top_p": 0.9}
    ))  # fmt: skip
    import_hf(root / "hf", root / "mg")
    return root


def update(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def model_of(root: Path) -> Any:
    from nemo_srlm.convert import hf_config

    return hf_config.read(root / "hf").model


def test_a_llama_2_directory_keeps_its_tokenizer_chat_template_and_generation_settings(llama_2: Path, tmp_path: Path):
    import sentencepiece
    from transformers import AutoTokenizer

    tokenizer_files.copy_unchanged(llama_2 / "hf", tmp_path / "m0")  # as the import stage keeps them
    export_hf(llama_2 / "mg", tmp_path / "out", model_of(llama_2), tokenizer=tmp_path / "m0")
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (llama_2 / "hf" / name).read_bytes(), name
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    reference = sentencepiece.SentencePieceProcessor(model_file=str(SHARED))
    assert theirs(TEXT, add_special_tokens=False).input_ids == reference.encode(TEXT)
    assert Tokenizer(tmp_path / "out").encode(TEXT) == reference.encode(TEXT)
    assert (Tokenizer(tmp_path / "out").bos_id, Tokenizer(tmp_path / "out").eos_id) == (1, 2)
    rendered = theirs.apply_chat_template([{"role": "user", "content": "Why?"}], tokenize=False)
    assert rendered == "<s>[INST] Why? [/INST]"
    settings = [json.loads((d / "generation_config.json").read_text()) for d in (tmp_path / "out", llama_2 / "hf")]
    assert settings[0] == settings[1]


def test_a_model_trained_in_our_chat_format_ends_with_the_tokenizers_end_token(llama_2: Path, tmp_path: Path):
    from transformers import AutoTokenizer, GenerationConfig

    chat = ChatSection("Q: ", "\nA:")
    export_hf(llama_2 / "mg", tmp_path / "out", model_of(llama_2), tokenizer=llama_2 / "hf", chat=chat)
    settings = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (settings.eos_token_id, settings.pad_token_id, settings.temperature) == (2, 0, 0.6)
    text, whole, parts = whole_and_parts(tmp_path / "out", chat)
    assert text == "<s> Q: What's 2 + 2? <b>\nA: It is 4.</s>"
    assert whole == parts
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = theirs.apply_chat_template([{"role": "user", "content": "Why?"}], tokenize=True)["input_ids"]
    assert ids == Chat.of(Tokenizer(tmp_path / "out"), chat).prompt_ids("Why?")


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_settings_that_are_no_json_leave_no_export(llama_2: Path, tmp_path: Path, name: str):
    tokenizer_files.copy_unchanged(llama_2 / "hf", tmp_path / "tok")
    (tmp_path / "tok" / name).write_text("{")
    with pytest.raises(CheckpointError, match=f"{name}: not JSON"):
        export_hf(llama_2 / "mg", tmp_path / "out", model_of(llama_2), tokenizer=tmp_path / "tok")
    assert [path.name for path in tmp_path.iterdir()] == ["tok"]


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path):
    tiny_llama.make_tokenizer(tmp_path / "tok", 259)
    with pytest.raises(CheckpointError, match=r"3 token\(s\) beyond the vocabulary"):
        tokenizer_files.copy(tmp_path / "tok", tmp_path / "out", 256, None)


def test_a_directory_without_a_fast_tokenizer_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no tokenizer.json and no tokenizer_config.json"):
        tokenizer_files.copy_unchanged(tmp_path, tmp_path / "out")


def test_a_tokenizer_that_is_not_one_is_refused(tmp_path: Path):
    tiny_llama.make_tokenizer(tmp_path / "tok")
    (tmp_path / "tok" / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        tokenizer_files.copy(tmp_path / "tok", tmp_path / "out", 256, None)


@pytest.mark.parametrize(("change", "said"), [({"eos_token": None}, "no eos_token"), ({"eos_token": "<x>"}, "'<x>'")])
def test_a_tokenizer_without_an_end_token_is_refused_with_what_to_write_where(
    tmp_path: Path, change: dict[str, Any], said: str
):
    tiny_llama.make_tokenizer(tmp_path / "tok")
    update(tmp_path / "tok/tokenizer_config.json", change)
    with pytest.raises(
        CheckpointError, match=rf'tokenizer_config\.json: .*{said}.*write "eos_token": "\.\.\." into this'
    ):
        Tokenizer(tmp_path / "tok")
