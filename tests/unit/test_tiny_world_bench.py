"""The acceptance criteria that tools/bench/tiny_world.py prints."""

from dataclasses import replace

import pytest

from nemo_srlm.report.units import FIGURES
from tools.bench.tiny_world import Model, each_and_over_seeds, verdicts

M1 = Model(mean=2.9, full=0.2, correct=0.75, all_correct=0.6, interval="[2.8, 3.0]", judge=0.85)
GOOD = {
    "M1": M1,
    "M2": replace(M1, mean=3.6, full=0.5, all_correct=0.66),
    "M3": replace(M1, mean=3.9, full=0.7, all_correct=0.7),
    "random M2": M1,
    "random M3": M1,
}


def test_a_run_that_meets_every_criterion_fails_none():
    (line,) = [line for line in verdicts({0: GOOD}) if line.startswith("- seed 0")]
    assert line.count("holds") == 7
    assert "FAILS" not in line


@pytest.mark.parametrize(
    ("model", "changed", "words"),
    [
        ("M3", {"all_correct": 0.67}, "all right, M3 - M1 +0.070 (>= +.08) FAILS"),
        ("random M3", {"all_correct": 0.635}, "all right, random M3 - M1 +0.035 (-.03 to +.03) FAILS"),
        ("random M3", {"all_correct": 0.56}, "all right, random M3 - M1 -0.040 (-.03 to +.03) FAILS"),
        ("random M2", {"full": 0.31}, "full marks +0.11 (<= +.10) FAILS"),
        ("M1", {"judge": None}, "judge of M1 0.000 (>= .62) FAILS"),
    ],
)
def test_a_criterion_that_is_not_met_is_named(model: str, changed: dict[str, float], words: str):
    (line,) = [line for line in verdicts({3: GOOD | {model: replace(GOOD[model], **changed)}}) if "seed 3" in line]
    assert words in line
    assert line.count("FAILS") == 1


def test_a_seed_without_a_control_is_judged_by_what_it_has():
    found = {name: m for name, m in GOOD.items() if not name.startswith("random")}
    (line,) = [line for line in verdicts({1: found}) if line.startswith("- seed 1")]
    assert line.count("holds") == 4
    assert "random" not in line


def test_changes_of_seeds_are_told_each_and_over_them():
    first = {seed: {"a": (0.2, 1.0), "b": (0.4, 1.0), "gone": (1.0, 1.0)} for seed in (1, 2, 3)}
    last = {seed: {"a": (0.3 + seed / 100, 1.0), "b": (0.5 + seed / 100, 1.0)} for seed in (1, 2, 3)}
    half = 1.0 * 4.302653 / 3**0.5  # Student's quantile with two degrees of freedom
    expected = f"+11.0 +12.0 +13.0, over seeds +12.0 [{12 - half:+.1f}, {12 + half:+.1f}]"
    assert each_and_over_seeds(FIGURES["all_correct"], first, last) == expected
