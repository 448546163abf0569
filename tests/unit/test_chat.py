"""Text to token ids and loss weights: the tokenizer, the chat format."""

import json
from pathlib import Path

import pytest

from nemo_srlm.data.chat import StringChat, weighted_document
from nemo_srlm.data.tokenizer import Tokenizer
from nemo_srlm.errors import CheckpointError

WORDS = ["<unk>", "<s>", "</s>", "Q:", "A:", "one", "two", "three", "four"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    from tokenizers import Tokenizer as Core
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    directory = tmp_path_factory.mktemp("tokenizer")
    core = Core(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    core.save(str(directory / "tokenizer.json"))
    write_config(directory, bos_token="<s>", eos_token={"content": "</s>"})
    return Tokenizer(directory)


def write_config(directory: Path, **config: object) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def test_the_response_is_trained_on_and_the_prompt_is_not(tokenizer: Tokenizer):
    made = StringChat(tokenizer, "Q: ", " A:").document("one two", "three four")
    assert [WORDS[i] for i in made.ids] == ["<s>", "Q:", "one", "two", "A:", "three", "four", "</s>"]
    assert made.weights.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


def test_prompt_and_response_are_encoded_apart(tokenizer: Tokenizer):
    chat = StringChat(tokenizer, "Q: ", " A:")
    made = chat.document("one", "two")
    assert made.ids.tolist() == [*chat.prompt_ids("one"), *tokenizer.encode("two"), tokenizer.eos_id]


def test_segments_keep_their_own_weight(tokenizer: Tokenizer):
    made = weighted_document(tokenizer, [("Q: one A:", 0.25), ("two", 1.0)])
    assert made.weights.tolist() == [0, 0.25, 0.25, 0.25, 1, 1]


@pytest.mark.parametrize("config", [{"bos_token": "<s>"}, {"bos_token": "<s>", "eos_token": "<none>"}])
def test_a_tokenizer_without_its_end_token_is_refused(tokenizer: Tokenizer, tmp_path: Path, config: dict[str, str]):
    (tmp_path / "tokenizer.json").write_bytes((tokenizer.directory / "tokenizer.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        Tokenizer(tmp_path)
    write_config(tmp_path, **config)
    with pytest.raises(CheckpointError, match="eos_token"):
        Tokenizer(tmp_path)
