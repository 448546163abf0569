"""The shipped seed data of the real-model demo: complete, readable by the seed stage, and not solved by length."""

from collections import Counter
from itertools import combinations
from pathlib import Path

from nemo_srlm.config.shipped import CONFIGS, data_file
from nemo_srlm.data.oasst import read_first_turns
from nemo_srlm.data.splits import instruction_id

FILE = CONFIGS / "data" / "everyday.trees.jsonl"


def test_every_instruction_has_three_different_responses_with_the_ranks_0_1_2():
    counts: Counter[str] = Counter()
    turns = list(read_first_turns([FILE], "en", counts))
    assert counts == Counter(trees=len(turns), replies=3 * len(turns))
    assert len(turns) >= 120
    assert len({instruction_id(turn.text) for turn in turns}) == len(turns)
    for turn in turns:
        assert [reply.rank for reply in turn.replies] == [0, 1, 2]
        assert len({reply.text for reply in turn.replies}) == 3


def test_the_longer_response_is_not_simply_the_better_one():
    """Chosen by length alone, about half of the pairs would be right, so a judge has to look at the content."""
    better = pairs = 0.0
    for turn in read_first_turns([FILE], "en", Counter()):
        for good, bad in combinations([len(reply.text) for reply in turn.replies], 2):
            pairs += 1
            better += (good > bad) + 0.5 * (good == bad)
    assert 0.45 < better / pairs < 0.58


def test_a_shipped_file_is_found_from_any_directory_and_the_users_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "data/everyday.trees.jsonl"
    assert data_file(name) == FILE
    assert data_file("data/absent.trees.jsonl") == Path("data/absent.trees.jsonl")  # named as the user wrote it
    (tmp_path / "data").mkdir()
    (tmp_path / name).write_text("")
    assert data_file(name) == Path(name)
