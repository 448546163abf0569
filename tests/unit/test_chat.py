"""Text to token ids and loss weights: the tokenizer, the chat format."""

import json
from pathlib import Path

import pytest

from nemo_srlm.config.generation import ChatSection
from nemo_srlm.data.chat import Chat, StringChat, assistant, weighted_document
from nemo_srlm.data.tokenizer import Tokenizer, unused_character
from nemo_srlm.errors import CheckpointError, DataError

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


@pytest.mark.parametrize(
    ("config", "begin"),
    [({}, []), ({"bos_token": None}, []), ({"bos_token": "<s>"}, [1]), ({"bos_token": "<s>", "add_bos_token": True}, [1]),
     ({"bos_token": "<s>", "add_bos_token": False}, [])],
)  # fmt: skip
def test_a_text_begins_as_the_tokenizer_says(
    tokenizer: Tokenizer, tmp_path: Path, config: dict[str, object], begin: list[int]
):
    (tmp_path / "tokenizer.json").write_bytes((tokenizer.directory / "tokenizer.json").read_bytes())
    write_config(tmp_path, eos_token="</s>", **config)
    made = StringChat(Tokenizer(tmp_path), "Q: ", " A:").document("one", "two")
    assert [WORDS[i] for i in made.ids] == [*(WORDS[i] for i in begin), "Q:", "one", "A:", "two", "</s>"]
    assert weighted_document(Tokenizer(tmp_path), [("one two", 1.0)]).weights[0] == 0


def test_every_end_token_of_the_generation_settings_counts(tokenizer: Tokenizer, tmp_path: Path):
    (tmp_path / "tokenizer.json").write_bytes((tokenizer.directory / "tokenizer.json").read_bytes())
    write_config(tmp_path, eos_token="</s>")
    settings = tmp_path / "generation_config.json"
    for stated, ends in ((None, {2}), (1, {1, 2}), ([1, 8], {1, 2, 8})):
        settings.write_text(json.dumps({"eos_token_id": stated}))
        assert Tokenizer(tmp_path).end_ids == ends
    for wrong in ("2", [2, None], -1, True):
        settings.write_text(json.dumps({"eos_token_id": wrong}))
        with pytest.raises(CheckpointError, match=r"generation_config\.json: eos_token_id is"):
            Tokenizer(tmp_path)


def test_strings_need_a_users_message_first_and_have_no_place_for_a_system_message(tokenizer: Tokenizer):
    chat = StringChat(tokenizer, "Q: ", " A:")
    with pytest.raises(DataError, match="a message of the role 'system'"):
        chat.next_turn_ids([{"role": "system", "content": "one"}])
    for messages in ([], [assistant("one")]):
        with pytest.raises(DataError, match="a user's message first"):
            chat.conversation(messages)


def test_the_models_own_template_must_be_there(tokenizer: Tokenizer):
    with pytest.raises(CheckpointError, match=r"no chat template.*chat\.format=strings"):
        Chat.of(tokenizer, ChatSection(format="model"))


def test_a_character_that_no_text_has_is_found_beside_those_that_are_taken():
    assert unused_character(["abc", "é"]) == "\U0010ffff"
    assert unused_character(["\U0010ffff\U0010fffd", "\U0010fffe"]) == "\U0010fffc"


@pytest.mark.parametrize("config", [{"bos_token": "<s>"}, {"bos_token": "<s>", "eos_token": "<none>"}])
def test_a_tokenizer_without_its_end_token_is_refused(tokenizer: Tokenizer, tmp_path: Path, config: dict[str, str]):
    (tmp_path / "tokenizer.json").write_bytes((tokenizer.directory / "tokenizer.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        Tokenizer(tmp_path)
    write_config(tmp_path, **config)
    with pytest.raises(CheckpointError, match="eos_token"):
        Tokenizer(tmp_path)
