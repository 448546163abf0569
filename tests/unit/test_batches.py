"""The order of training examples, and how micro-batches are laid out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_srlm.data.chat import Document
from nemo_srlm.train.batches import (
    BatchLayout,
    balance,
    collate,
    context_positions,
    drop_reason,
    eval_batches,
    index_at,
    padding_batch,
    step_batches,
)


def document(length: int, first: int = 10) -> Document:
    weights = np.ones(length, np.float32)
    weights[: length // 2 + 1] = 0.0
    return Document(np.arange(first, first + length, dtype=np.int32), weights)


def test_what_cannot_be_trained_on_has_a_reason():
    no_target = Document(np.arange(4, dtype=np.int32), np.zeros(4, np.float32))
    assert drop_reason((document(9),), 8) == "too_long"
    assert drop_reason((document(8), no_target), 8) == "no_target"
    assert drop_reason((document(8),), 8) == ""


def test_every_epoch_holds_every_unit_once_in_its_own_order():
    epochs = [[index_at(e * 50 + i, 50, seed=3) for i in range(50)] for e in range(3)]
    assert all(sorted(e) == list(range(50)) for e in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != [index_at(i, 50, seed=4) for i in range(50)]


@given(st.lists(st.integers(1, 500), min_size=12, max_size=12), st.sampled_from([1, 2, 3, 4, 6]), st.booleans())
def test_balancing_loses_nothing_and_keeps_counts_equal(sizes: list[int], bins: int, sort_only: bool):
    balanced = balance(sizes, bins, sort_only)
    assert sorted(i for b in balanced for i in b) == list(range(12))
    assert {len(b) for b in balanced} == {12 // bins}


def test_sizes_are_balanced():
    loads = [sum([100, 90, 80, 40, 30, 20][i] for i in b) for b in balance([100, 90, 80, 40, 30, 20], 2)]
    assert abs(loads[0] - loads[1]) <= 20


def test_a_document_with_its_own_row_is_padded_at_the_end_without_weight():
    batch = collate([(document(4),), (document(6),)], [0, 1], BatchLayout(packed=False))
    assert batch.tokens_BS.tolist() == [[10, 11, 12, 0, 0], [10, 11, 12, 13, 14]]
    assert batch.labels_BS.tolist() == [[11, 12, 13, 0, 0], [11, 12, 13, 14, 15]]
    assert batch.weights_BS.tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 1, 1]]
    assert batch.segments_BS.tolist() == [[0, 0, 0, 2, 2], [1, 1, 1, 1, 1]]
    assert batch.bounds_N1 is None
    assert batch.num_tokens == 8
    assert batch.squared_lengths == 5**2 + 3**2


def test_a_pack_keeps_documents_whole_with_positions_from_zero():
    batch = collate([(document(4),), (document(6, 50),)], [0, 1], BatchLayout(packed=True))
    assert batch.tokens_BS.tolist() == [[50, 51, 52, 53, 54, 10, 11, 12]]
    assert batch.positions_S.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert batch.segments_BS.tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]]
    assert batch.bounds_N1 is not None
    assert batch.bounds_N1.tolist() == [0, 5, 8]


def test_aligned_documents_are_padded_apart_and_the_row_to_its_multiple():
    batch = collate([(document(4),), (document(6, 50),)], [0, 1], BatchLayout(packed=True, align=4, multiple=16))
    assert batch.bounds_N1 is not None
    assert batch.bounds_N1.tolist() == [0, 8, 12, 16]
    assert batch.segments_BS[0].tolist() == [1] * 5 + [2] * 3 + [0] * 3 + [2] * 5
    assert batch.weights_BS.sum() == 3


units_strategy = st.lists(st.tuples(st.integers(2, 20), st.integers(2, 20)), min_size=8, max_size=8)


@given(units_strategy, st.sampled_from([(1, 1), (2, 1), (1, 4), (2, 2), (4, 2)]), st.booleans())
def test_any_split_of_a_step_trains_on_the_same_pairs_and_never_parts_them(
    lengths: list[tuple[int, int]], split: tuple[int, int], packed: bool
):
    replicas, micro = split
    units = [(document(a, 100 * i), document(b, 100 * i + 50)) for i, (a, b) in enumerate(lengths)]
    seen: list[int] = []
    for replica in range(replicas):
        for batch in step_batches(lambda p: units[p], 0, 8, replicas, micro, replica, BatchLayout(packed=packed)):
            seen += batch.positions
            assert batch.num_documents == 2 * len(batch.positions)
            for number in range(batch.num_documents):
                expected = units[batch.positions[number // 2]][number % 2]
                here = batch.segments_BS == number
                assert batch.tokens_BS[here].tolist() == expected.ids[:-1].tolist()
                assert batch.labels_BS[here].tolist() == expected.ids[1:].tolist()
                assert batch.weights_BS[here].tolist() == expected.weights[1:].tolist()
    assert sorted(seen) == list(range(8))


def test_pipeline_stages_get_one_shape():
    units = [(document(n),) for n in (3, 9, 5, 7)]
    batches = step_batches(lambda p: units[p], 0, 4, 1, 4, 0, BatchLayout(packed=True, uniform=True))
    assert {b.tokens_BS.shape for b in batches} == {(1, 8)}


def test_an_evaluation_visits_every_unit_once_over_the_replicas():
    units = [(document(3 + i),) for i in range(7)]
    batches = [b for replica in range(2) for b in eval_batches(units, 2, 2, replica, BatchLayout(packed=True))]
    assert sorted(p for b in batches for p in b.positions) == list(range(7))


@pytest.mark.parametrize("budget", [0, 64])
def test_a_replica_without_a_unit_of_an_evaluation_takes_part_in_it(budget: int):
    """On GPUs the others would wait for its share of the updated weights until the process group's time is over."""
    units, layout = [(document(3 + i),) for i in range(3)], BatchLayout(packed=True, budget=budget)
    found = [eval_batches(units, 2, 4, replica, layout) for replica in range(4)]
    assert [len(batches) for batches in found] == [1, 1, 1, 1]
    assert sorted(p for batches in found for b in batches for p in b.positions) == [0, 1, 2]
    assert [b.num_documents for batches in found for b in batches][-1] == 0
    assert eval_batches([], 2, 4, 0, layout) == []


def test_a_padding_batch_counts_nothing():
    empty = padding_batch(collate([(document(4),)], [0], BatchLayout(packed=True)))
    assert (empty.num_documents, empty.weights_BS.sum(), empty.num_tokens) == (0, 0, 0)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_context_ranks_share_a_document_without_overlap(size: int):
    held = [context_positions(24, size, rank).tolist() for rank in range(size)]
    assert sorted(p for h in held for p in h) == list(range(24))
    work = [sum(h) for h in held]
    assert max(work) == min(work), "causal work is balanced"
