"""Preference files of every supported format as ranked replies."""

import json
from collections import Counter
from pathlib import Path

import pytest

from nemo_srlm.data.ranked_replies import dense_ranks, read_ranked
from nemo_srlm.errors import DataError

OASST = Path(__file__).resolve().parents[3] / "shared" / "data" / "oasst_sample.trees.jsonl.gz"


def read(tmp_path: Path, *rows: dict, most: int = 0) -> tuple[list[tuple[str, str, int]], Counter[str]]:
    path, counts = tmp_path / "file.jsonl", Counter[str]()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [(r.instruction, r.response, r.rank) for r in read_ranked(path, "en", most, counts)], counts


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        {"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
         "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]},
        {"instruction": "q", "completions": [{"response": "a", "overall_score": 9.5}, {"response": "b", "overall_score": 2}]},
        {"prompt": "q", "responses": ["a", "b"], "ranks": [1, 2]},
        {"prompt": "q", "replies": [{"text": "a", "rank": 0}, {"text": "b", "rank": 3}]},
    ],
)  # fmt: skip
def test_every_shape_gives_the_same_two_ranks(tmp_path: Path, row: dict):
    assert read(tmp_path, row)[0] == [("q", "a", 0), ("q", "b", 1)]


def test_ties_share_a_rank_and_what_nobody_ranked_is_counted(tmp_path: Path):
    row = {"prompt": "q", "responses": ["a", "b", "c", "d"], "scores": [5, 5, None, 1]}
    found, counts = read(tmp_path, row, {"prompt": "p", "responses": ["x", "y"], "scores": [1, None]})
    assert found == [("q", "a", 0), ("q", "b", 0), ("q", "d", 1)]
    assert (counts["dropped_unranked_replies"], counts["dropped_fewer_than_two"]) == (2, 1)
    assert dense_ranks([3, -1.5, 3, 0]) == [2, 0, 2, 1]


def test_a_longer_conversation_and_a_repeated_instruction_are_counted(tmp_path: Path):
    talk = "\n\nHuman: q\n\nAssistant: a\n\nHuman: and?\n\nAssistant: b"
    rows = [{"chosen": talk, "rejected": talk}, *[{"prompt": "q", "chosen": "a", "rejected": "b"}] * 2]
    found, counts = read(tmp_path, *rows)
    assert len(found) == 2
    assert (counts["dropped_several_turns"], counts["dropped_duplicate"]) == (1, 1)


def test_a_sample_is_the_same_in_every_order(tmp_path: Path):
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(20)]
    first, counts = read(tmp_path, *rows, most=5)
    assert sorted(first) == sorted(read(tmp_path, *rows[::-1], most=5)[0])
    assert (counts["instructions"], counts["dropped_not_sampled"]) == (5, 15)


@pytest.mark.parametrize(
    ("row", "message"),
    [({"prompt": "q"}, "no ranked replies"), ({"prompt": "q", "responses": ["a", "b"], "scores": [1]}, "one per reply"),
     ({"prompt": "q", "replies": [{"rank": 1}]}, "reply 0 has no text"),
     ({"prompt": "q", "replies": [{"text": "a", "score": "high"}]}, "the score of reply 0: high"),
     ({"prompt": "q", "replies": [{"text": "a", "score": "nan"}]}, "the score of reply 0: nan"),
     ({"prompt": "q", "replies": [{"text": "a", "rank": 10**400}]}, "the rank of reply 0: 1000"),
     ({"prompt": "q", "replies": [{"text": "a", "rank": True}]}, "the rank of reply 0: True"),
     ({"prompt": "q", "replies": [{"text": "a", "score": 1}]}, "no instruction with two ranked replies")],
)  # fmt: skip
def test_what_is_no_preference_is_refused_with_its_line(tmp_path: Path, row: dict, message: str):
    with pytest.raises(DataError, match=f"file.jsonl.*{message}"):
        read(tmp_path, row)


@pytest.mark.parametrize(
    ("row", "message"),
    [({"replies": [{"text": "a", "rank": 0}, {"text": "b", "score": 4}]}, "a rank for some replies, a score for others"),
     ({"responses": ["a", "b"], "ranks": [0, None], "scores": [None, 4]}, "a rank for some replies, a score for others"),
     ({"responses": ["a", "b"], "ranks": [0, 1], "scores": [1, 5]}, "ranks and scores that contradict each other"),
     ({"responses": ["a", "b"], "answers": ["c", "d"], "scores": [1, 5]}, "replies in responses and in answers")],
)  # fmt: skip
def test_marks_of_two_kinds_are_never_put_on_one_scale(tmp_path: Path, row: dict, message: str):
    with pytest.raises(DataError, match=f"file.jsonl:1: {message}"):
        read(tmp_path, {"prompt": "q"} | row)


@pytest.mark.parametrize(
    "row",
    [{"responses": ["b", "a"], "ranks": [2, 1], "scores": [1, 5], "answers": []},
     {"replies": [{"text": "b", "rank": 7, "score": 3}, {"text": "a", "score": 4}]}],
)  # fmt: skip
def test_marks_that_all_replies_have_order_them(tmp_path: Path, row: dict):
    assert read(tmp_path, {"prompt": "q"} | row)[0] == [("q", "b", 1), ("q", "a", 0)]


@pytest.mark.skipif(not OASST.exists(), reason="the Open Assistant sample (../shared/data) is not here")
def test_open_assistant_trees_are_a_preference_file_too():
    counts: Counter[str] = Counter()
    found = read_ranked(OASST, "en", 0, counts)
    assert counts["instructions"] == len({r.instruction_id for r in found}) > 10
    assert all(r.rank >= 0 for r in found)


def test_parquet_is_read_too(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "pairs.parquet"
    datasets.Dataset.from_list([{"prompt": "q", "chosen": "a", "rejected": "b"}]).to_parquet(str(path))
    assert [r.response for r in read_ranked(path, "en", 0, Counter())] == ["a", "b"]
