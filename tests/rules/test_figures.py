"""README's figures are those of docs/measurements.md."""

import pytest

from tools.bench.readme_tables import BEGIN, DOC, END, README, block, changes, recorded


def test_the_readmes_tables_are_made_of_the_recorded_runs():
    text = README.read_text(encoding="utf-8")
    found = text[text.index(BEGIN) : text.index(END) + len(END)]
    assert found == block(DOC.read_text(encoding="utf-8")), "run tools/bench/readme_tables.py --write"


def test_what_the_readme_says_of_single_seeds_is_in_the_recorded_runs():
    """README's are of unrounded shares and scores, recorded ones have three digits and two."""
    rows = {split: recorded(DOC.read_text(encoding="utf-8"), split) for split in ("dev", "test")}
    test = rows["test"]
    assert all({seed for seed, _ in found} == {4, 5, 6, 7, 8} for found in rows.values())
    score, control = (changes(test, "mean", "M1", last) for last in ("M3", "random M3"))
    assert (min(score), max(score)) == pytest.approx((0.49, 0.92), abs=0.011)
    assert (min(control), max(control)) == pytest.approx((-0.20, -0.03), abs=0.011)
    assert max(control) < 0
    content = {"M1": [0.034, 0.049, 0.104, -0.06, 0.037], "random M3": [0.067, 0.069, 0.116, -0.036, 0.02]}
    for first, expected in content.items():
        assert changes(test, "content", first, "M3") == pytest.approx(expected, abs=0.0011)
    gate = {split: changes(found, "content", "M1", "M3") for split, found in rows.items()}
    assert [sum(rise >= 0.08 for rise in gate[split]) for split in ("dev", "test")] == [5, 1]
    assert (min(gate["dev"]), max(gate["dev"])) == pytest.approx((0.08, 0.149), abs=0.0011)
    flat = {split: changes(found, "content", "M1", "random M3") for split, found in rows.items()}
    assert [sum(abs(change) <= 0.03 for change in flat[split]) for split in ("dev", "test")] == [4, 4]
