"""The bench of judges on real text: which pairs count as right, and that no instruction is on both sides."""

from collections import Counter

import numpy as np

from nemo_srlm.config.shipped import CONFIGS
from nemo_srlm.core.records import RankedReply
from nemo_srlm.data.oasst import read_first_turns
from tools.bench import real_judge

FILE = CONFIGS / "data" / "everyday.trees.jsonl"


def test_the_halves_share_no_instruction_and_lose_none(tmp_path):
    train, held_out = real_judge.halves(FILE, tmp_path)
    sides = [{turn.id for turn in read_first_turns([path], "en", Counter())} for path in (train, held_out)]
    assert sides[0].isdisjoint(sides[1])
    assert sides[0] | sides[1] == {turn.id for turn in read_first_turns([FILE], "en", Counter())}
    assert 0.3 < len(sides[0]) / len(sides[0] | sides[1]) < 0.7


def test_a_tie_and_a_missing_score_count_half_and_equal_ranks_not_at_all():
    ranks = {"a": 0, "b": 1, "c": 1, "d": 2}
    group = [RankedReply(name, "i", "Why?", name, rank) for name, rank in ranks.items()]
    right = {"a": 5.0, "b": 3.0, "c": 3.0, "d": 0.0}
    assert real_judge.counts([group], lambda reply: right[reply.id]).tolist() == [[5.0, 5.0]]
    assert real_judge.counts([group], lambda reply: -right[reply.id]).tolist() == [[0.0, 5.0]]
    # d has no score: a-d, b-d and c-d count half; a-b and a-c tie
    partly = {"a": 3.0, "b": 3.0, "c": 3.0, "d": None}
    assert np.allclose(real_judge.counts([group], lambda reply: partly[reply.id]), [[2.5, 5.0]])
