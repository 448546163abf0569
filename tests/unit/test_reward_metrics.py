"""The five reward-model metrics against scipy and hand calculation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nemo_srlm.core.records import Judgement, RankedReply
from nemo_srlm.evaluate.reward_metrics import histogram, kendall, reward_metrics, spearman


def reply(name: str, instruction: str, rank: int) -> RankedReply:
    return RankedReply(name, instruction, f"question {instruction}", f"answer {name}", rank)


def judged(name: str, *scores: float | None) -> Judgement:
    return Judgement(name, "p", scores, ("",) * len(scores), ("stop",) * len(scores))


def measure(ranks: dict[str, list[int]], scores: dict[str, list[float | None]]) -> dict:
    """Metrics of replies a0, a1, ... of instruction a with one score (three equal draws) each; None = unparsable."""
    replies = [reply(f"{i}{k}", i, rank) for i, rs in ranks.items() for k, rank in enumerate(rs)]
    judgements = {f"{i}{k}": judged(f"{i}{k}", s, s, s) for i, ss in scores.items() for k, s in enumerate(ss)}
    return reward_metrics(replies, judgements, min_valid=2)


def test_a_judge_that_orders_everything_as_humans_do_is_perfect():
    out = measure({"a": [0, 1, 2], "b": [1, 0]}, {"a": [5, 3, 1], "b": [2, 4]})
    assert [out[k] for k in ("pairwise_accuracy", "pairwise_strict", "exact_match", "spearman", "kendall")] == [1.0] * 5
    assert out["five_best"] == 1.0
    assert out["counts"]["perfect"] == 1
    assert out["counts"]["pairs"] == 4


def test_a_judge_that_reverses_everything_scores_zero_and_minus_one():
    out = measure({"a": [0, 1, 2]}, {"a": [1, 3, 5]})
    assert (out["pairwise_accuracy"], out["exact_match"], out["five_best"]) == (0.0, 0.0, 0.0)
    assert (out["spearman"], out["kendall"]) == (-1.0, -1.0)


def test_a_judge_that_says_four_to_everything_is_a_coin_and_never_strictly_right():
    out = measure({"a": [0, 1, 2], "b": [0, 1]}, {"a": [4, 4, 4], "b": [4, 4]})
    assert (out["pairwise_accuracy"], out["pairwise_strict"], out["exact_match"]) == (0.5, 0.0, 0.0)
    assert (out["spearman"], out["kendall"], out["five_best"]) == (0.0, 0.0, None)
    assert out["counts"]["constant"] == 2
    assert out["counts"]["tied_pairs"] == 4


def test_a_hand_worked_case_with_ties_on_both_sides():
    # humans: r0 = r1 best, r2 worst. judge: 5, 3, 3. pairs that humans order: (r0,r2) right, (r1,r2) tied
    out = measure({"a": [0, 0, 1]}, {"a": [5, 3, 3]})
    assert out["counts"]["pairs"] == 2
    assert out["counts"]["human_ties"] == 1
    assert out["counts"]["tied_pairs"] == 1
    assert out["pairwise_accuracy"] == 0.75
    assert out["pairwise_strict"] == 0.5
    assert out["exact_match"] == 0.0
    assert out["five_best"] == 1.0
    assert out["kendall"] == pytest.approx(stats.kendalltau([0, 0, -1], [5, 3, 3]).statistic)


def test_human_ties_impose_nothing_on_an_exact_match():
    assert measure({"a": [0, 0, 1]}, {"a": [5, 4, 3]})["exact_match"] == 1.0


def test_an_unparsable_reply_leaves_its_pairs_and_spoils_the_exact_match():
    out = measure({"a": [0, 1, 2]}, {"a": [5, None, 1]})
    assert out["counts"]["pairs"] == 1
    assert out["pairwise_accuracy"] == 1.0
    assert out["exact_match"] == 0.0
    assert (out["counts"]["unscored"], out["counts"]["failed_draws"], out["counts"]["draws"]) == (1, 3, 9)


def test_replies_without_any_judgement_are_counted_apart():
    replies = [reply("x", "a", 0), reply("y", "a", 1), reply("z", "a", 2)]
    out = reward_metrics(replies, {"x": judged("x", 5, 4), "y": judged("y", 3, 3)}, 2)
    assert out["counts"]["unjudged"] == 1
    assert out["counts"]["scored"] == 2


def test_an_instruction_that_humans_do_not_order_is_not_counted():
    out = measure({"a": [0, 0], "b": [0, 1]}, {"a": [1, 5], "b": [5, 1]})
    assert out["counts"]["instructions"] == 1
    assert out["counts"]["instructions_without_order"] == 1
    assert out["exact_match"] == 1.0


def test_five_best_needs_the_full_score_and_counts_replies_not_instructions():
    out = measure({"a": [0, 1], "b": [0, 1], "c": [0, 1]}, {"a": [5, 5], "b": [4.9, 5], "c": [5, 1]})
    assert out["counts"]["perfect"] == 4
    assert out["five_best"] == pytest.approx(2 / 4)


def test_nothing_to_measure_gives_none_and_no_division_error():
    out = reward_metrics([], {}, 2)
    assert out["pairwise_accuracy"] is None
    assert out["intervals"]["spearman"] is None
    assert out["counts"]["pairs"] == 0


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=2, max_size=9).filter(
        lambda x: len({a for a, _ in x}) > 1 and len({b for _, b in x}) > 1
    )
)
def test_rank_correlations_equal_scipys_with_any_ties(pairs):
    a, b = zip(*pairs, strict=True)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)


def test_a_judge_that_is_always_right_has_an_interval_of_some_width():
    out = measure({str(k): [0, 1, 2] for k in range(20)}, {str(k): [5, 3, 1] for k in range(20)})
    for name in ("pairwise_accuracy", "exact_match", "five_best", "spearman", "kendall"):
        low, high = out["intervals"][name]
        assert (out[name], high) == (1.0, 1.0)
        assert low < 0.9, name


def test_a_judge_that_states_no_score_has_no_exact_match():
    out = measure({"a": [0, 1], "b": [0, 1]}, {"a": [None, None], "b": [None, 3]})
    assert out["exact_match"] is None
    assert out["intervals"]["exact_match"] is None


def test_a_constant_side_has_no_correlation():
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert kendall([1, 2], [3, 3]) is None


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator, covered = np.random.default_rng(0), 0
    for _ in range(100):
        right = generator.random(80) < 0.65
        scores = {str(k): [2.0, 1.0] if r else [1.0, 2.0] for k, r in enumerate(right)}
        low, high = measure({k: [0, 1] for k in scores}, scores)["intervals"]["pairwise_accuracy"]
        covered += low <= 0.65 <= high
    assert 88 <= covered <= 100


def test_the_value_lies_within_its_interval():
    generator = np.random.default_rng(1)
    scores = {str(k): list(generator.integers(0, 6, 4).astype(float)) for k in range(40)}
    one = measure({k: [0, 1, 2, 3] for k in scores}, scores)
    for name, interval in one["intervals"].items():
        assert interval is not None
        assert interval[0] <= one[name] <= interval[1], name


def test_the_histogram_rounds_halves_up_and_keeps_order():
    assert histogram([4.5, 4.4, 0.0, 5.0]) == {"0": 1, "4": 1, "5": 2}
    assert not math.isnan(sum(histogram([]).values()))
