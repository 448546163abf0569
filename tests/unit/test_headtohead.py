"""Two-order comparison: verdicts, outcomes, intervals."""

import numpy as np
import pytest
from scipy import stats

from nemo_srlm.evaluate import paper
from nemo_srlm.evaluate.headtohead import (
    Comparison,
    by_category,
    order_bias,
    outcome,
    outcome_of_scores,
    summary,
)


def compared(
    result: str, first: str = "", second: str = "", category: str = "", words: int = 3, prompt: str = "p"
) -> Comparison:
    return Comparison("id", prompt, "M2", "M1", result, first, second, (), category, words, 5)


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
    results = [compared("win", prompt=f"w{k}") for k in range(5)] + [compared("tie", prompt=f"t{k}") for k in range(3)]
    results += [compared("loss", prompt=f"l{k}") for k in range(2)] + [compared("unjudged")] * 2
    out = summary(results)
    assert (out["win"], out["tie"], out["loss"], out["net"]) == pytest.approx((0.5, 0.3, 0.2, 0.3))
    assert out["judged"] == 10
    assert out["counts"]["unjudged"] == 2
    assert out["win_rate"] == pytest.approx(0.65)
    # Bonett & Price: one win and one loss more, Student's quantile
    half = stats.t.ppf(0.975, 11) * np.std([1] * 6 + [0] * 3 + [-1] * 3, ddof=1) / 12**0.5
    assert out["net_interval"] == pytest.approx([3 / 12 - half, 3 / 12 + half])
    assert (out["words"], out["other_words"]) == (3, 5)


def test_nothing_judged_gives_none_everywhere():
    out = summary([compared("unjudged")])
    assert out["win"] is None
    assert out["net_interval"] is None
    assert out["intervals"]["win"] is None


def test_the_samples_of_one_prompt_count_once():
    one = summary([compared("win", prompt="p"), compared("loss", prompt="q"), compared("win", prompt="r")])
    four = summary(
        [
            c
            for c in (compared("win", prompt="p"), compared("loss", prompt="q"), compared("win", prompt="r"))
            for _ in range(4)
        ]
    )
    assert (four["judged"], four["prompts"]) == (12, 3)
    for name in ("net", "net_interval", "intervals", "sign_p"):
        assert four[name] == one[name], name


def test_wordings_of_one_question_count_once():
    """The tiny world's 350 held-out prompts ask half as many questions."""
    results = [
        compared(result, prompt=p + k) for p, result in (("a", "win"), ("b", "loss"), ("c", "win")) for k in "12"
    ]
    asked = {c.prompt_id: c.prompt_id[0] for c in results}
    one = summary([compared("win", prompt="a"), compared("loss", prompt="b"), compared("win", prompt="c")])
    found = summary(results, asked)
    assert (found["judged"], found["prompts"]) == (6, 6)
    for name in ("net", "net_interval", "intervals", "sign_p"):
        assert found[name] == one[name], name


def test_all_wins_leave_room_for_doubt():
    out = summary([compared("win", prompt=str(k)) for k in range(20)])
    assert out["net"] == out["net_interval"][1] == out["intervals"]["win"][1] == 1.0
    assert out["net_interval"][0] < 0.8
    assert out["intervals"]["win"][0] < 0.85


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
