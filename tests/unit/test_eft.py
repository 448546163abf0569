"""EFT examples: when a score ranking agrees with the human one, how scores are balanced, the source of external judgements."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_srlm.config.generation import JudgeSection
from nemo_srlm.core.records import RankedReply
from nemo_srlm.data import templates
from nemo_srlm.judge import eft
from nemo_srlm.judge.eft import JudgedReply
from nemo_srlm.judge.scores import parse_score


def judged(instruction: str, rank: int, score: float | None) -> JudgedReply:
    reply = RankedReply(f"{instruction}-{rank}", instruction, f"Question {instruction}?", f"Reply {rank}", rank)
    return JudgedReply(reply, f"Because. Score: {score}", score)


@pytest.mark.parametrize(
    ("ranks_and_scores", "agree"),
    [
        ([(0, 5), (1, 3), (2, 1)], True),
        ([(0, 4), (1, 4), (2, 1)], True),  # ties of neighbours agree: six scores cannot order every ranking
        ([(0, 3), (1, 4), (2, 1)], False),
        ([(0, 4), (1, 4), (2, 4)], False),  # a constant is no ranking
        ([(2, 1), (0, 5), (1, 3)], True),  # in any order
        ([(0, 4), (0, 2), (1, 1)], True),  # replies with equal human ranks may differ in score
        ([(0, 1), (1, 4)], False),
    ],
)
def test_scores_agree_with_humans_when_no_pair_is_inverted_and_they_say_something(ranks_and_scores, agree):
    assert eft.agrees(ranks_and_scores) is agree


def test_whole_instructions_are_kept_and_the_rest_is_counted_by_reason():
    items = [
        judged("good", 0, 4), judged("good", 1, 2), judged("good", 2, None),
        judged("inverted", 0, 2), judged("inverted", 1, 4),
        judged("flat", 0, 4), judged("flat", 1, 4),
        judged("alone", 0, 4), judged("alone", 1, None),
    ]  # fmt: skip
    counts: Counter[str] = Counter()
    kept = eft.keep_agreeing(items, counts)
    assert [item.reply.id for item in kept] == ["good-0", "good-1"]
    assert counts == {"unparsed": 2, "disagrees": 2, "all_equal": 2, "alone": 1}
    assert len(kept) + counts.total() == len(items)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.none() | st.integers(0, 5).map(float)),
        max_size=20,
        unique_by=lambda t: t[:2],
    )
)
def test_nothing_is_lost_uncounted(rows):
    items = [judged(*row) for row in rows]
    counts: Counter[str] = Counter()
    kept = eft.keep_agreeing(items, counts)
    balanced = eft.balance(kept, 0.5, counts)
    final = eft.limit(balanced, 3, counts)
    assert len(final) + counts.total() == len(items)
    assert all(item.score is not None for item in final)
    assert [item for item in items if item in final] == final or len(final) <= 3


def test_part_of_the_most_common_score_is_discarded():
    items = (
        [judged(f"i{i}", 0, 4.0) for i in range(20)]
        + [judged(f"j{i}", 0, 2.0) for i in range(6)]
        + [judged("k", 0, 5.0)]
    )
    counts: Counter[str] = Counter()
    kept = eft.balance(items, 1.0, counts)
    assert Counter(item.score for item in kept) == {4.0: 6, 2.0: 6, 5.0: 1}
    assert counts == {"dominant_score": 14}
    assert eft.balance(list(reversed(items)), 1.0, Counter())[::-1] == kept  # order does not matter
    assert len(eft.balance(items[:20], 0.5, counts)) == 20  # only one score: nothing to balance


def test_given_judgements_are_kept_where_the_score_parses():
    counts: Counter[str] = Counter()
    kept = eft.keep_parsed([judged("a", 0, 3.0), judged("b", 0, None)], counts)
    assert [item.reply.id for item in kept] == ["a-0"]
    assert counts == {"unparsed": 1}


def test_an_example_is_the_filled_judge_prompt_and_the_judgement_with_its_score():
    template = templates.load(JudgeSection().template, templates.JUDGE)
    (made,) = eft.examples([judged("a", 0, 3.0)], template, Counter())
    assert made.kind == "eft"
    assert "User: Question a?" in made.prompt
    assert "<response>Reply 0</response>" in made.prompt
    assert parse_score(made.response) == 3
    assert made.source == "a-0"
