"""Open Assistant exports in both formats; also real trees if ../shared exists."""

import gzip
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nemo_srlm.data.oasst import FirstTurn, read_first_turns
from nemo_srlm.errors import DataError

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "oasst_sample.trees.jsonl.gz"


def message(name: str, text: str, parent: str | None = None, rank: int | None = None, **other: Any) -> dict[str, Any]:
    """A message with the fields that matter; `other` overrides them."""
    role = "prompter" if parent is None else "assistant"
    flags = {"lang": "en", "deleted": False, "review_result": True, "synthetic": False, "replies": []}
    return {"message_id": name, "parent_id": parent, "text": text, "role": role, "rank": rank} | flags | other


def tree(name: str, *replies: dict[str, Any], state: str = "ready_for_export", **other: Any) -> dict[str, Any]:
    return {
        "message_tree_id": name,
        "tree_state": state,
        "prompt": message(name, f"Question {name}?", replies=list(replies)) | other,
    }


def flat(trees: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same trees in the flat format of the messages export."""
    rows = []
    for one in trees:
        stack = [one["prompt"]]
        while stack:
            node = stack.pop()
            stack += node["replies"]
            row = {key: value for key, value in node.items() if key != "replies"}
            rows.append({**row, "message_tree_id": one["message_tree_id"], "tree_state": one["tree_state"]})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path: Path, language: str = "en") -> tuple[list[FirstTurn], Counter[str]]:
    counts: Counter[str] = Counter()
    return list(read_first_turns([path], language, counts)), counts


def test_replies_come_best_first_and_follow_up_turns_are_left_alone(tmp_path: Path):
    deeper = message("d", "More?", "b", role="prompter", replies=[message("e", "Yes.", "d", 0)])
    rows = [
        tree(
            "a",
            message("c", "Worse.", "a", 1),
            message("b", " Best. ", "a", 0, replies=[deeper]),
            message("u", "New.", "a"),
        )
    ]
    (turn,), counts = read(write(tmp_path / "x.trees.jsonl.gz", rows))
    assert turn.text == "Question a?"
    assert [(reply.id, reply.text, reply.rank) for reply in turn.replies] == [
        ("b", "Best.", 0),
        ("c", "Worse.", 1),
        ("u", "New.", None),
    ]
    assert counts == {"trees": 1, "replies": 3, "reply_unranked": 1}


def test_later_turns_have_their_conversation_and_come_from_both_forms(tmp_path: Path):
    last = message("f", "And?", "e", role="prompter", replies=[message("g", "That is all.", "f", 0)])
    deeper = message("d", "More?", "b", role="prompter", replies=[message("e", "Yes.", "d", 0, replies=[last])])
    gone = message("h", "Deleted", "b", role="prompter", deleted=True)
    rows = [tree("a", message("b", "Bruno.", "a", 0, replies=[deeper, gone]), message("c", "No.", "a", 1))]
    found = []
    for name, data in (("x.trees.jsonl", rows), ("x.messages.jsonl", flat(rows)[::-1])):
        counts: Counter[str] = Counter()
        (turn,) = read_first_turns([write(tmp_path / name, data)], "en", counts, later=True)
        assert counts["later_deleted"] == 1
        found.append(turn)
    assert found[0] == found[1]
    assert [(later.id, later.text, [r.text for r in later.replies]) for later in found[0].later] == [
        ("d", "More?", ["Yes."]), ("f", "And?", ["That is all."]),
    ]  # fmt: skip
    assert found[0].later[1].conversation == (
        "Question a?\n\nAssistant: Bruno.\n\nUser: More?\n\nAssistant: Yes.\n\nUser: And?"
    )
    assert read(tmp_path / "x.trees.jsonl")[0][0].later == ()


def test_both_forms_give_the_same_first_turns_in_any_order_of_messages(tmp_path: Path):
    trees = [tree("a", message("b", "B", "a", 0), message("c", "C", "a", 1)), tree("x", message("y", "Y", "x", 0))]
    rows = flat(trees)
    random.Random(1).shuffle(rows)
    nested, _ = read(write(tmp_path / "x.trees.jsonl", trees))
    messages, _ = read(write(tmp_path / "x.messages.jsonl.gz", rows))
    assert sorted(nested, key=lambda t: t.id) == sorted(messages, key=lambda t: t.id)


def test_everything_left_out_is_counted_by_reason(tmp_path: Path):
    bad = [
        message("b1", "x", "a", 0, deleted=True),
        message("b2", "x", "a", 1, review_result=False),
        message("b3", "x", "a", 2, synthetic=True),
        message("b4", "x", "a", 3, lang="de"),
        message("b5", "  ", "a", 4),
        message("b6", "fine", "a", 5),
        message("b7", "x", "a", 6, role="prompter"),
    ]
    rows = [
        tree("a", *bad), tree("b", state="growing"), tree("c", lang="de"), tree("d", deleted=True),
        tree("e", review_result=False), tree("f", text=" "), tree("a", *bad),
    ]  # fmt: skip
    turns, counts = read(write(tmp_path / "x.trees.jsonl", rows))
    assert [[reply.id for reply in turn.replies] for turn in turns] == [["b6"]]
    assert counts == {
        "trees": 7, "replies": 7, "tree_state_growing": 1, "tree_other_language": 1, "tree_deleted": 1, "tree_failed_review": 1,
        "tree_empty": 1, "tree_duplicate": 1, "reply_deleted": 1, "reply_failed_review": 1, "reply_synthetic": 1,
        "reply_other_language": 1, "reply_empty": 1, "reply_not_assistant": 1, "reply_unranked": 0,
    }  # fmt: skip


def test_an_id_that_is_twice_in_a_tree_is_refused_at_every_depth(tmp_path: Path):
    deeper = message("d", "More?", "b", role="prompter", replies=[message("b", "Yes.", "d", 0)])
    for replies in (
        [message("b", "B", "a", 0), message("b", "C", "a", 1)],
        [message("b", "B", "a", 0, replies=[deeper])],
    ):
        path = write(tmp_path / "x.trees.jsonl", [tree("x", message("b", "B", "x", 0)), tree("a", *replies)])
        with pytest.raises(DataError, match=r"x\.trees\.jsonl:2: message_id 'b' twice in one tree"):
            read(path)


def test_a_tree_of_two_exports_is_a_duplicate_where_it_is_equal_and_an_error_where_not(tmp_path: Path):
    paths = [write(tmp_path / f"{name}.trees.jsonl", [tree("t", message("b", "B", "t", 0))]) for name in "ab"]
    counts: Counter[str] = Counter()
    assert [turn.id for turn in read_first_turns(paths, "en", counts)] == ["t"]
    assert counts["tree_duplicate"] == 1
    found = r"b\.trees\.jsonl:1: message_id 't' again, with another content than in .*a\.trees\.jsonl:1;"
    other_replies = ([message("b", "Another", "t", 0)], [message("b", "B", "t", 1)], [message("c", "B", "t", 0)], [])
    for other in (
        tree("t", message("b", "B", "t", 0), text="Another question?"), *(tree("t", *replies) for replies in other_replies)
    ):  # fmt: skip
        write(paths[1], [other])
        with pytest.raises(DataError, match=found):
            list(read_first_turns(paths, "en", Counter()))


def test_a_tree_beside_its_flat_messages_is_a_duplicate(tmp_path: Path):
    one = tree("t", message("b", "B", "t", 0), message("c", "C", "t", 1))
    paths = [write(tmp_path / "a.trees.jsonl", [one]), write(tmp_path / "a.messages.jsonl", flat([one])[::-1])]
    counts: Counter[str] = Counter()
    assert [turn.id for turn in read_first_turns(paths, "en", counts)] == ["t"]
    assert counts["tree_duplicate"] == 1


def test_flat_messages_with_a_repeated_id_are_duplicates_where_equal_and_an_error_where_not(tmp_path: Path):
    rows = flat([tree("a", message("b", "B", "a", 0), message("c", "C", "a", 1))])
    (turn,), counts = read(write(tmp_path / "x.messages.jsonl", [*rows, rows[1]]))
    assert [reply.id for reply in turn.replies] == ["b", "c"]
    assert (counts["replies"], counts["reply_duplicate"]) == (2, 1)
    path = write(tmp_path / "x.messages.jsonl", [*rows, rows[1] | {"text": "Another."}])
    with pytest.raises(DataError, match=r"jsonl:4: message_id '[bc]' again, with another content than in .*jsonl:2;"):
        read(path)


def test_a_reply_may_bring_its_judgement(tmp_path: Path):
    (turn,), _ = read(
        write(tmp_path / "x.trees.jsonl", [tree("a", message("b", "B", "a", 0, judgement="Good. Score: 4"))])
    )
    assert turn.replies[0].judgement == "Good. Score: 4"


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("{not json", r"x\.jsonl:1.*not JSON"),
        ('"text"', r"x\.jsonl:1"),
        ('{"instruction": "a"}', r"an Open Assistant tree"),
        ('{"prompt": "a", "tree_state": "x"}', r"not an object"),
        (json.dumps({"tree_state": "ready_for_export", "prompt": {"message_id": "a", "text": "x"}}), "lang: nothing"),
        (json.dumps(tree("a", message("b", "B", "a", rank=-1))), "rank -1"),
        (json.dumps(message("a", "no state")), "without tree_state"),
    ],
)
def test_a_malformed_file_names_the_line_and_what_was_expected(tmp_path: Path, line: str, where: str):
    path = tmp_path / "x.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=where):
        read(path)


def test_a_file_that_is_missing_or_cut_short_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "nowhere.jsonl")
    whole = write(
        tmp_path / "x.trees.jsonl.gz", [tree(f"t{i}", message(f"r{i}", "x" * 99, f"t{i}", 0)) for i in range(50)]
    )
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(DataError, match="unreadable"):
        read(whole)


@pytest.mark.skipif(not SAMPLE.exists(), reason="../shared/data is absent")
@pytest.mark.parametrize(("language", "ranked"), [("en", 22), ("de", 2), ("es", 13)])
def test_the_real_sample_has_its_ranked_first_turns(language: str, ranked: int, tmp_path: Path):
    turns, counts = read(SAMPLE, language)
    with_ranks = [turn for turn in turns if sum(reply.rank is not None for reply in turn.replies) >= 2]
    assert len(with_ranks) == ranked  # one English and one Spanish tree occur twice in the sample
    assert counts["trees"] == 279
    assert len(turns) == 279 - sum(number for reason, number in counts.items() if reason.startswith("tree_"))
    with gzip.open(SAMPLE, "rt", encoding="utf-8") as f:
        rows = flat([json.loads(line) for line in f])
    messages, flat_counts = read(write(tmp_path / "sample.messages.jsonl.gz", rows), language)
    assert [t for t in messages if t in turns] == turns
    assert flat_counts["trees"] == 279
