"""README's figures are those of docs/measurements.md."""

from tools.bench import readme_tables
from tools.bench.readme_tables import BEGIN, DOC, END, README, block, changes, recorded


def test_the_readmes_tables_are_made_of_the_recorded_runs():
    text = README.read_text(encoding="utf-8")
    found = text[text.index(BEGIN) : text.index(END) + len(END)]
    assert found == block(DOC.read_text(encoding="utf-8")), "run tools/bench/readme_tables.py --write"


def test_what_the_readme_says_of_single_seeds_is_in_the_recorded_runs():
    rows = recorded(DOC.read_text(encoding="utf-8"))
    assert len({seed for seed, _ in rows}) == 5
    for first, last in (("M1", "M2"), ("M2", "M3")):
        assert min(changes(rows, "mean", first, last)) > 0
    assert max(changes(rows, "mean", "M1", "random M3")) < 0
    assert max(changes(rows, "judge", "M1", "M2")) < 0
    assert sum(change < 0 for change in changes(rows, "judge", "M1", "M3")) == 4
    correct = readme_tables.of_values(changes(rows, "content", "M1", "M3"))
    assert -0.02 < correct.low < correct.high < 0.02
