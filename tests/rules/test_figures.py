"""README's figures are those of docs/measurements.md."""

import re

import pytest

from tools.bench import methods_page
from tools.bench.methods import METHODS, PAPER
from tools.bench.readme_tables import BEGIN, DOC, END, README, block, changes, recorded


def test_the_readmes_tables_are_made_of_the_recorded_runs():
    text = README.read_text(encoding="utf-8")
    found = text[text.index(BEGIN) : text.index(END) + len(END)]
    assert found == block(DOC.read_text(encoding="utf-8")), "run tools/bench/readme_tables.py --write"


def test_what_the_readme_says_of_single_seeds_is_in_the_recorded_runs():
    """The changes of single seeds, and how many of them meet the gate."""
    rows = {split: recorded(DOC.read_text(encoding="utf-8"), split) for split in ("dev", "test")}
    assert all({seed for seed, _ in found} == {1, 2, 3, 4, 5} for found in rows.values())
    score = changes(rows["test"], "mean", "M1", "M3")
    assert (min(score), max(score)) == pytest.approx((0.54, 0.94), abs=0.0051)
    control = changes(rows["test"], "mean", "M1", "random M3")
    assert (min(control), max(control)) == pytest.approx((-0.10, 0.05), abs=0.0051)
    gate = {split: changes(found, "content", "M1", "M3") for split, found in rows.items()}
    assert gate["test"] == pytest.approx([0.170, 0.077, 0.139, 0.127, 0.142], abs=0.00051)
    assert gate["dev"] == pytest.approx([0.167, 0.093, 0.114, 0.150, 0.154], abs=0.00051)
    assert [sum(rise >= 0.08 for rise in gate[split]) for split in ("dev", "test")] == [5, 4]
    flat = {split: changes(found, "content", "M1", "random M3") for split, found in rows.items()}
    assert [sum(abs(change) <= 0.03 for change in flat[split]) for split in ("dev", "test")] == [5, 5]
    assert [sum(flat[split]) / 5 for split in ("dev", "test")] == pytest.approx([-0.004, 0.0], abs=0.00051)
    above = changes(rows["test"], "content", "random M3", "M3")
    assert (min(above), max(above)) == pytest.approx((0.095, 0.160), abs=0.00051)


def test_the_intervals_that_the_readme_counts_are_in_the_recorded_runs():
    """M3's content more than 3 points above M1's on every seed of both splits, the lower end of its interval."""
    line = re.compile(r"^- seed \d, M1 to M3, paired: .*content all right \S+ pts \[(\S+), \S+\]", re.M)
    found = [float(low) for low in line.findall(DOC.read_text(encoding="utf-8").replace("−", "-"))]
    assert len(found) == 10
    assert min(found) > 3


@pytest.mark.parametrize("table", methods_page.TABLES)
def test_the_page_of_methods_has_the_recorded_tables(table: str):
    page = methods_page.PAGE.read_text(encoding="utf-8")
    rows = methods_page.recorded(DOC.read_text(encoding="utf-8"), table)
    assert page[methods_page.on_page(page, table)] == methods_page.block(rows, table), (
        "run tools/bench/methods_page.py --write"
    )
    assert rows


def test_the_table_of_the_shipped_world_has_every_method():
    rows = methods_page.recorded(DOC.read_text(encoding="utf-8"), "dev")
    assert {method for method, _ in rows} == set(METHODS) - {PAPER}
