"""Which units of a step share a row: whole units, few rows, equal lengths, the global batch exact."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_srlm.data.chat import Document
from nemo_srlm.train import packing
from nemo_srlm.train.batches import Batch, BatchLayout, eval_batches, num_inputs, step_batches, unit_length
from nemo_srlm.train.packing import fill_rows, first_fit_decreasing, in_order, round_up

lengths_of_16 = st.lists(st.integers(1, 900), min_size=16, max_size=16)


def loads(rows: list[list[int]], sizes: list[int]) -> list[int]:
    return [sum(sizes[i] for i in row) for row in rows]


@given(lengths_of_16, st.integers(100, 4000), st.sampled_from([1, 2, 4, 8]))
def test_rows_hold_every_unit_once_within_the_budget_or_the_longest_unit(sizes: list[int], budget: int, multiple: int):
    rows = fill_rows(sizes, budget, multiple)
    assert sorted(i for row in rows for i in row) == list(range(16))
    assert all(rows)
    assert len(rows) % multiple == 0
    assert max(loads(rows, sizes)) <= max(budget, *sizes)


@given(lengths_of_16, st.integers(100, 4000), st.sampled_from([1, 2, 4, 8]))
def test_rows_are_no_more_than_first_fit_decreasing_makes(sizes: list[int], budget: int, multiple: int):
    fewest = len(first_fit_decreasing(sizes, max(budget, *sizes)))
    assert len(fill_rows(sizes, budget, multiple)) <= -(-fewest // multiple) * multiple


def test_first_fit_decreasing_is_the_textbook_one():
    assert first_fit_decreasing([4, 8, 1, 4, 2, 1], 10) == [[1, 4], [0, 3, 2, 5]]


def test_rows_that_levelling_cannot_fit_are_those_of_first_fit_decreasing():
    sizes = [5, 5, 4, 4, 3, 3]  # two rows of 12: levelling gives 5 + 4 + 4 = 13
    assert sorted(loads(fill_rows(sizes, 12), sizes)) == [12, 12]
    three = fill_rows([6, 6, 4, 4, 4, 4], 14, 3)
    assert sorted(loads(three, [6, 6, 4, 4, 4, 4])) == [8, 10, 10]


def test_units_in_order_start_a_new_row_where_the_budget_ends():
    assert in_order([9, 7, 5, 5, 2], 10) == [[0], [1], [2, 3], [4]]


# --- in a step -----------------------------------------------------------------------------------------------------


def document(length: int, first: int) -> Document:
    weights = np.ones(length, np.float32)
    weights[: length // 2 + 1] = 0.0
    return Document(np.arange(first, first + length, dtype=np.int32), weights)


def pairs_of(lengths: list[tuple[int, int]]) -> list[tuple[Document, Document]]:
    return [(document(a, 100 * i), document(b, 100 * i + 50)) for i, (a, b) in enumerate(lengths)]


def step(units: list[tuple[Document, ...]], replicas: int, layout: BatchLayout) -> list[list[Batch]]:
    """The micro-batches of every replica; without a budget one unit each."""
    num = len(units)
    return [step_batches(lambda p: units[p], 0, num, replicas, num // replicas, r, layout) for r in range(replicas)]


pair_lengths = st.lists(st.tuples(st.integers(2, 40), st.integers(2, 40)), min_size=8, max_size=8)


@given(pair_lengths, st.sampled_from([1, 2, 4]), st.integers(20, 200), st.sampled_from([1, 2]))
def test_a_step_packs_whole_pairs_and_keeps_the_global_batch(
    lengths: list[tuple[int, int]], replicas: int, budget: int, rounds: int
):
    units = pairs_of(lengths)
    layout = BatchLayout(packed=True, budget=budget, rounds=rounds, multiple=4, align=4)
    found = step(units, replicas, layout)
    assert sorted(p for batches in found for batch in batches for p in batch.positions) == list(range(8))
    counts = {len(batches) for batches in found}
    assert len(counts) == 1, "replicas have equally many micro-batches"
    assert counts.pop() % rounds == 0
    limit = max(budget, *(unit_length(num_inputs(unit), layout) for unit in units))
    for batch in (batch for batches in found for batch in batches):
        assert batch.tokens_BS.shape[0] == 1
        assert batch.tokens_BS.shape[1] <= -(-limit // 4) * 4
        assert batch.num_documents == 2 * len(batch.positions)
        for number in range(batch.num_documents):
            expected = units[batch.positions[number // 2]][number % 2]
            here = batch.segments_BS == number
            assert batch.labels_BS[here].tolist() == expected.ids[1:].tolist()
            assert batch.weights_BS[here].tolist() == expected.weights[1:].tolist()


def useful(documents: int, layout: BatchLayout, replicas: int) -> float:
    """Share of positions that are tokens: 50 steps of 16 units with lognormal lengths, median 250, sigma 0.8."""
    rng = np.random.default_rng(0)
    tokens = positions = 0
    for _ in range(50):
        sizes = np.clip(np.exp(rng.normal(np.log(250), 0.8, (16, documents))).astype(int), 8, 4096)
        units = [tuple(document(int(n), 0) for n in row) for row in sizes]
        for batches in step(units, replicas, layout):
            tokens += sum(b.num_tokens for b in batches)
            positions += sum(b.tokens_BS.size for b in batches)
    return tokens / positions


@pytest.mark.parametrize("documents", [1, 2])
def test_a_budget_makes_nine_of_ten_positions_of_a_pipeline_useful(documents: int):
    one_each = useful(documents, BatchLayout(packed=True, uniform=True, multiple=8), 2)
    filled = useful(documents, BatchLayout(packed=True, uniform=True, multiple=8, budget=4096), 2)
    assert one_each < 0.5
    assert filled >= 0.9


def test_the_reference_pass_fills_rows_too():
    units = pairs_of([(3 + i, 9) for i in range(9)])
    layout = BatchLayout(packed=True, budget=40)
    batches = [b for replica in range(2) for b in eval_batches(units, 1, 2, replica, layout)]
    assert sorted(p for b in batches for p in b.positions) == list(range(9))
    assert max(b.tokens_BS.shape[1] for b in batches) <= 40
    assert len(batches) < 9


def test_buffers_of_one_size_get_rows_of_one_length():
    units = pairs_of([(3 + i, 9) for i in range(4)])
    found = step(units, 2, BatchLayout(packed=True, budget=40, multiple=8, full=True))
    assert {b.tokens_BS.shape[1] for batches in found for b in batches} == {40}


def test_padding_to_a_multiple_is_computed_in_one_place():
    """Packing and batches had a function each, layout a formula: rows that are planned and made must have one length."""
    assert [round_up(n, 8) for n in (0, 1, 8, 9)] == [0, 8, 8, 16]
    folder = Path(packing.__file__).parent
    texts = {path.name: path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
    assert [name for name, text in texts.items() if "def _round_up" in text or "* multiple" in text] == ["packing.py"]
