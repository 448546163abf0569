"""Which rows of preference files are pairs, and the reasons why others are not."""

from typing import Any

import pytest

from nemo_srlm.core.records import PreferencePair
from nemo_srlm.data.preference_pairs import to_pair
from nemo_srlm.errors import DataError


def said(*texts: str, roles: tuple[str, ...] = ("user", "assistant")) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


MESSAGES = {"chosen": said("q", "good"), "rejected": said("q", "bad")}
TRANSCRIPT = {name: f"\n\nHuman: q\n\nAssistant: {text}" for name, text in (("chosen", "good"), ("rejected", "bad"))}


@pytest.mark.parametrize("row", [MESSAGES, TRANSCRIPT], ids=["messages", "transcript"])
def test_a_prompt_that_is_not_the_one_answered_is_counted(row: dict[str, Any]):
    assert to_pair(row | {"prompt": "another"}, "f:1") == "other_prompt"
    assert isinstance(to_pair(row | {"prompt": "q\n"}, "f:1"), PreferencePair)
    for same in (row, row | {"prompt": "q"}, row | {"prompt": None}):
        pair = to_pair(same, "f:1")
        assert isinstance(pair, PreferencePair)
        assert (pair.prompt, pair.chosen, pair.rejected) == ("q", "good", "bad")


def test_the_assistants_message_alone_answers_the_prompt_beside_it():
    row = {name: said(text, roles=("assistant",)) for name, text in (("chosen", "good"), ("rejected", "bad"))}
    for prompt in ("q", said("q", roles=("user",))):
        pair = to_pair(row | {"prompt": prompt}, "f:1")
        assert isinstance(pair, PreferencePair)
        assert (pair.prompt, pair.chosen, pair.rejected) == ("q", "good", "bad")
    with pytest.raises(DataError, match="f:1: no prompt that both responses answer"):
        to_pair(row, "f:1")


def test_a_system_message_is_a_reason_of_its_own():
    sides = {
        name: said("Be brief.", "q", name, roles=("system", "user", "assistant")) for name in ("chosen", "rejected")
    }
    assert to_pair(sides, "f:1") == "system_message"
    asked = said("Be brief.", "q", roles=("system", "user"))
    alone = {name: said(name, roles=("assistant",)) for name in ("chosen", "rejected")}
    assert to_pair(alone | {"prompt": asked}, "f:1") == "system_message"
    longer = {name: said("q", "a", "and?", name, roles=("user", "assistant") * 2) for name in ("chosen", "rejected")}
    assert to_pair(longer, "f:1") == "several_turns"
