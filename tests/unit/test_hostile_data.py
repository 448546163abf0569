"""Scores, ranks, ids and parents that cannot be right: refused with their line, or left out and counted."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nemo_srlm.core.records import PreferencePair
from nemo_srlm.data.preference_pairs import read_pairs, to_pair
from nemo_srlm.data.ranked_replies import read_ranked
from nemo_srlm.errors import DataError
from tests.unit.test_oasst import flat, message, read, tree, write

ROW = {"prompt": "q", "chosen": "good", "rejected": "bad"}


@pytest.mark.parametrize("name", ["chosen_score", "score_rejected"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, 10**400, "5", [5]])
def test_a_score_that_is_no_finite_number_is_refused(name: str, value: Any):
    with pytest.raises(DataError, match=f"f:1: {name}: .*a finite number"):
        to_pair(ROW | {name: value}, "f:1")


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"weight": math.nan}, {"certainty": 1.5}, {"certainty": "sure"}])
def test_weights_that_cannot_be_are_refused(wrong: dict[str, Any]):
    with pytest.raises(DataError, match=f"f:1: {next(iter(wrong))}: "):
        to_pair(ROW | wrong, "f:1")


def test_a_chosen_score_below_the_rejected_one_is_counted_and_never_a_pair(tmp_path: Path):
    path = write(tmp_path / "f.jsonl", [ROW | {"chosen_score": 1, "rejected_score": 4.5}, ROW])
    counts: Counter[str] = Counter()
    assert [pair.chosen for pair in read_pairs([path], counts)] == ["good"]
    assert counts["dropped_reversed_scores"] == 1
    assert to_pair(ROW | {"score_chosen": 2, "score_rejected": 2.0}, "f:1") == "tie"
    assert isinstance(to_pair(ROW | {"score_chosen": 2}, "f:1"), PreferencePair)


@pytest.mark.parametrize("name", ["system", "system_prompt", "input", "context"])
def test_a_part_of_the_prompt_in_another_column_is_refused(tmp_path: Path, name: str):
    with pytest.raises(DataError, match=f"f:1: {name}: 'Be brief.'; .*; join {name} and the prompt"):
        to_pair(ROW | {name: "Be brief."}, "f:1")
    assert isinstance(to_pair(ROW | {name: ""}, "f:1"), PreferencePair)
    path = write(tmp_path / "f.jsonl", [{"prompt": "q", "responses": ["a", "b"], "ranks": [0, 1], name: "Be brief."}])
    with pytest.raises(DataError, match=f"f.jsonl:1: {name}: 'Be brief.'"):
        read_ranked(path, "en", 0, Counter())


@pytest.mark.parametrize("content", [None, 3, ["a"]])
def test_a_message_without_text_is_refused(content: Any):
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": content}]
    with pytest.raises(DataError, match="f:1: a message whose content is no text"):
        to_pair({"chosen": said, "rejected": said}, "f:1")


def one_tree(**reply: Any) -> dict[str, Any]:
    return tree("t", message("a", "first", "t", 0) | reply, message("b", "second", "t", 1))


def test_ranks_that_pandas_wrote_as_floats_are_ranks(tmp_path: Path):
    (turn,), _ = read(write(tmp_path / "f.trees.jsonl", [one_tree(rank=0.0)]))
    assert [(reply.id, reply.rank) for reply in turn.replies] == [("a", 0), ("b", 1)]


@pytest.mark.parametrize("rank", [0.5, -1, True, "0", [0], 1e300 * -1, 10**400, 1e300])
def test_other_ranks_are_refused(tmp_path: Path, rank: Any):
    with pytest.raises(DataError, match=r"jsonl:1: rank .*a whole number"):
        read(write(tmp_path / "f.trees.jsonl", [one_tree(rank=rank)]))


@pytest.mark.parametrize(
    "wrong", [{"message_id": None}, {"message_id": " "}, {"message_id": 7}, {"message_id": ["a"]}, {"judgement": 5}]
)
def test_ids_and_judgements_that_are_no_texts_are_refused(tmp_path: Path, wrong: dict[str, Any]):
    with pytest.raises(DataError, match=f"jsonl:1: {next(iter(wrong))}"):
        read(write(tmp_path / "f.trees.jsonl", [one_tree(**wrong)]))


@pytest.mark.parametrize("reply", ["text", None, 3])
def test_a_reply_that_is_no_message_is_refused(tmp_path: Path, reply: Any):
    with pytest.raises(DataError, match="jsonl:1: a reply that is a"):
        read(write(tmp_path / "f.trees.jsonl", [tree("t") | {"prompt": message("t", "q") | {"replies": [reply]}}]))


@pytest.mark.parametrize(
    "wrong", [{"message_id": None}, {"parent_id": 7}, {"parent_id": math.nan}, {"tree_state": None}]
)
def test_flat_messages_with_such_ids_parents_and_states_are_refused(tmp_path: Path, wrong: dict[str, Any]):
    rows = flat([one_tree()])
    with pytest.raises(DataError, match=r"messages\.jsonl:1: "):
        read(write(tmp_path / "f.messages.jsonl", [rows[0] | wrong, *rows[1:]]))


def test_flat_orphans_are_counted(tmp_path: Path):
    rows = [*flat([one_tree()]), {**flat([one_tree()])[1], "message_id": "lost", "parent_id": "absent"}]
    turns, counts = read(write(tmp_path / "f.messages.jsonl", rows))
    assert [len(turn.replies) for turn in turns] == [2]
    assert counts["reply_orphan"] == 1


def test_flat_messages_that_no_first_message_leads_to_are_counted(tmp_path: Path):
    """A reply to an orphan, two messages that answer each other, one that answers itself."""
    rows = flat([one_tree()])
    links = (("lost", "absent"), ("below", "lost"), ("one", "other"), ("other", "one"), ("itself", "itself"))
    rows += [{**rows[1], "message_id": name, "parent_id": parent} for name, parent in links]
    turns, counts = read(write(tmp_path / "f.messages.jsonl", rows))
    assert [len(turn.replies) for turn in turns] == [2]
    assert counts["reply_orphan"] == 5
