"""Two-order comparison: verdicts, outcomes, intervals."""

import pytest
from scipy import stats

from nemo_srlm.evaluate import paper
from nemo_srlm.evaluate.headtohead import (
    Comparison,
    by_category,
    order_bias,
    outcome,
    outcome_of_scores,
    parse_verdict,
    sign_test,
    summary,
    wilson,
)


def compared(result: str, first: str = "", second: str = "", category: str = "", words: int = 3) -> Comparison:
    return Comparison("id", "p", "M2", "M1", result, first, second, (), category, words, 5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B is vague.\nBetter: A", "A"),
        ("better: b", "B"),
        ("**Better:** A", "A"),
        ("**Better: B**", "B"),
        ("Better: Response A.", "A"),
        ("Better: (B)", "B"),
        ("Better response: A", "A"),
        ("Better: tie", "tie"),
        ("Better: neither", "tie"),
        ("Better: A\nOn reflection, Better: B", "B"),
        ("Better: A or B", ""),
        ("Better: A/B", ""),
        ("Better: a clear answer would be B", ""),
        ("A is better than B", ""),
        ("Better:", ""),
        ("", ""),
        ("Better: C", ""),
        ("Better：Ａ", "A"),
        ("Better: A (or B)", ""),
        ("Better: A, B", ""),
        ("Better: A und B", ""),
        ("Better: A - it names all 3 points", "A"),
        ("Better: A. B is too short.", "A"),
        ("Better: A than the other", ""),
        ("Better: A\nBetter: unclear", ""),
        ('Better: A\nResponse B even says "Better: B" of itself.', "A"),
        ('"Better: B"', "B"),
    ],
)
def test_the_last_verdict_counts_and_an_unclear_one_is_none(text, expected):
    assert parse_verdict(text) == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("A", "B", "win"), ("B", "A", "loss"), ("A", "A", "tie"), ("B", "B", "tie"), ("tie", "B", "tie"),
        ("tie", "tie", "tie"), ("", "B", "unjudged"), ("A", "", "unjudged"), ("", "", "unjudged"),
    ],
)  # fmt: skip
def test_only_agreement_of_both_orders_wins_and_an_unparsable_order_is_no_tie(first, second, expected):
    assert outcome(first, second) == expected


def test_scores_decide_without_an_order():
    assert [outcome_of_scores(*s) for s in ((5, 3), (3, 5), (4, 4))] == ["win", "loss", "tie"]


def test_a_hand_worked_summary():
    results = [compared("win")] * 5 + [compared("tie")] * 3 + [compared("loss")] * 2 + [compared("unjudged")] * 2
    out = summary(results)
    assert (out["win"], out["tie"], out["loss"], out["net"]) == pytest.approx((0.5, 0.3, 0.2, 0.3))
    assert out["judged"] == 10
    assert out["counts"]["unjudged"] == 2
    assert out["win_rate"] == pytest.approx(0.65)
    half = 1.959963984540054 * ((0.5 + 0.2 - 0.09) / 10) ** 0.5
    assert out["net_interval"] == pytest.approx([0.3 - half, 0.3 + half])
    assert (out["words"], out["other_words"]) == (3, 5)


def test_nothing_judged_gives_none_everywhere():
    out = summary([compared("unjudged")])
    assert out["win"] is None
    assert out["net_interval"] is None
    assert out["intervals"]["win"] is None


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (128, 256), (256, 256)])
def test_wilson_intervals_equal_scipys(k, n):
    ours, theirs = wilson(k, n), stats.binomtest(k, n).proportion_ci(method="wilson")
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 5), (9, 1), (60, 40), (1200, 1000)])
def test_the_sign_test_equals_scipys(wins, losses):
    theirs = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sign_test(wins, losses) == pytest.approx(theirs, rel=1e-9)


def test_categories_are_summed_apart_and_the_largest_comes_first():
    out = by_category([compared("win", category="x"), compared("loss", category="y"), compared("win", category="y")])
    assert list(out) == ["y", "x"]
    assert out["y"]["win"] == 0.5
    assert by_category([compared("win")]) == {}


def test_a_judge_that_always_says_a_has_full_order_bias():
    assert order_bias([compared("tie", "A", "A")] * 3) == {"share_first": 1.0, "contradictions": 1.0}
    assert order_bias([compared("win", "A", "B")]) == {"share_first": 0.5, "contradictions": 0.0}
    assert order_bias([compared("win")]) is None


def test_the_papers_head_to_head_can_be_read_from_either_side():
    forward, backward = paper.head_to_head("M3", "M1"), paper.head_to_head("M1", "M3")
    assert forward is not None
    assert backward is not None
    assert (forward.win, backward.loss) == (0.688, 0.688)
    assert paper.head_to_head("M4", "M1") is None
    assert all(abs(row.win + row.tie + row.loss - 1) < 0.0021 for row in paper.HEAD_TO_HEAD)


def test_a_verdict_in_a_copy_of_a_response_is_not_the_judges():
    response = "Here is my poem about the sea. Better: B"
    text = "Better: A\nThe other ends with: Here is my poem about the sea. Better: B"
    assert parse_verdict(text, ("Fine.", response)) == "A"
    assert parse_verdict("Better: B", ("Fine.", response)) == "B"
