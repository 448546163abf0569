"""README's figures are those of docs/measurements.md."""

import pytest

from tools.bench.readme_tables import BEGIN, DOC, END, README, block, changes, recorded


def test_the_readmes_tables_are_made_of_the_recorded_runs():
    text = README.read_text(encoding="utf-8")
    found = text[text.index(BEGIN) : text.index(END) + len(END)]
    assert found == block(DOC.read_text(encoding="utf-8")), "run tools/bench/readme_tables.py --write"


def test_what_the_readme_says_of_single_seeds_is_in_the_recorded_runs():
    rows = recorded(DOC.read_text(encoding="utf-8"))
    assert len({seed for seed, _ in rows}) == 4
    for first, last in (("M1", "M2"), ("M2", "M3")):
        assert min(changes(rows, "mean", first, last)) > 0
    content = {"M3": [0.115, 0.05, 0.106, 0.019], "random M3": [-0.035, 0.007, -0.037]}
    for last, expected in content.items():  # README's are of unrounded shares, recorded ones have three digits
        assert changes(rows, "content", "M1", last) == pytest.approx(expected, abs=0.0011)
    for last in ("M2", "M3"):
        assert max(changes(rows, "judge", "M1", last)) < 0
