"""The intervals behind every claim: against scipy, by hand, and by simulation."""

import numpy as np
import pytest
from scipy import stats

from nemo_srlm.evaluate.statistics import Estimate, difference, grouped, mean, of_values, sign_test, verdict, wilson
from tools.bench import coverage


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (128, 256), (256, 256)])
def test_wilson_intervals_equal_scipys(k, n):
    ours, theirs = wilson(k, n), stats.binomtest(k, n).proportion_ci(method="wilson")
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 5), (9, 1), (60, 40), (1200, 1000)])
def test_the_sign_test_equals_scipys(wins, losses):
    theirs = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sign_test(wins, losses) == pytest.approx(theirs, rel=1e-9)


def units(values):
    return {str(k): (float(v), 1.0) for k, v in enumerate(values)}


def test_the_mean_of_yes_and_no_is_wilsons_with_students_quantile():
    found = mean(units([1] * 30 + [0] * 10), 0, 1)
    assert found == Estimate(0.75, *wilson(30, 40, stats.t.ppf(0.975, 39)), 40)


def test_an_unbounded_mean_and_seeds_have_students_interval():
    values = [3.0, 4.5, 2.0, 7.0]
    theirs = stats.ttest_1samp(values, 0).confidence_interval()
    for found in (mean(units(values)), of_values(values)):
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert of_values(values[:2]) == Estimate(3.75, None, None, 2)
    assert of_values([]) is None


@pytest.mark.parametrize("value", [0.0, 0.1, -0.7, 1234.1])
def test_values_that_are_all_equal_have_no_interval_in_place_of_one_without_width(value):
    # the mean of [0.1, 0.1, 0.1] is not 0.1 but for rounding: its spread is above 0
    for found in (of_values([value] * 3), mean(units([value] * 3))):
        assert (found.low, found.high) == (None, None)


def test_samples_of_a_prompt_are_summed_before_anything_is_counted():
    samples = grouped([("a", 1), ("a", 0), ("b", 1), ("b", 1)])
    assert samples == {"a": (1.0, 2.0), "b": (2.0, 2.0)}
    assert mean(samples, 0, 1).num == 2
    repeated = {k: (5 * s, 5 * n) for k, (s, n) in samples.items()}
    assert mean(repeated, 0, 1) == mean(samples, 0, 1)


def test_a_paired_difference_is_far_narrower_than_an_unpaired_one_and_keeps_only_common_units():
    generator = np.random.default_rng(0)
    hard = generator.normal(3, 1, 200)
    a, b = hard + generator.normal(0, 0.1, 200), hard + 0.2 + generator.normal(0, 0.1, 200)
    found = difference(units(a), units(b), None)
    theirs = stats.ttest_rel(b, a).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.005)  # two units of 202 are added
    assert found.high - found.low < 0.2 * 2 * 1.96 * np.hypot(a.std(), b.std()) / 200**0.5
    assert difference(units(a), {**units(b[:50]), "other": (9.0, 1.0)}, 5).num == 50
    assert difference({"x": (1.0, 1.0)}, {"y": (1.0, 1.0)}, 1) is None


def test_pairs_without_a_score_change_the_weight_of_an_instruction():
    first, second = {"i": (4.0, 6.0), "j": (3.0, 3.0)}, {"i": (2.0, 3.0), "j": (1.0, 3.0)}
    assert difference(first, second, 1).value == pytest.approx(3 / 6 - 7 / 9)
    assert difference(first, {**second, "j": (0.0, 0.0)}, 1) == difference({"i": first["i"]}, {"i": second["i"]}, 1)


def test_no_interval_collapses():
    same = units([1.0] * 25)
    for found in (mean(same, 0, 1), mean(units([0.0] * 25), 0, 1), mean(units([0.5] * 25), 0, 1), difference(same, same, 1),
                  difference(units([0.0] * 25), same, 1)):  # fmt: skip
        assert found.high - found.low > 0.05
        assert found.low <= found.value <= found.high
    assert difference(same, same, None) == Estimate(0.0, None, None, 25)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.7])
def test_equal_units_whose_mean_is_rounded_have_an_interval_of_their_number(value):
    """Their residuals are of the size of 1e-17, which is no spread."""
    found = mean(units([value] * 37), 0.0, 1.0)
    assert found.high - found.low > 0.1


def test_a_verdict_needs_units_and_equality_needs_a_margin():
    assert verdict(Estimate(0.1, 0.05, 0.15, 50), 0.02) == "up"
    assert verdict(Estimate(-0.017, -0.034, -0.001, 150), 0.02) == "down"
    assert verdict(Estimate(0.0, -0.019, 0.019, 150), 0.02) == "same"
    assert verdict(Estimate(0.0, -0.04, 0.04, 150), 0.02) == "unclear"
    assert verdict(Estimate(0.5, 0.4, 0.6, 19), 0.02) == "too_few"
    assert verdict(Estimate(0.5, None, None, 50), 0.02) == "unclear"


@pytest.mark.parametrize("kind", coverage.KINDS, ids=lambda kind: kind.name)
def test_intervals_cover_the_truth_at_the_smallest_number_that_gets_a_verdict(kind):
    assert coverage.coverage(kind, 20, 400)["report"][0] >= 0.89
