"""Shared-prefix rows: what is shared, how a row is laid out, and that a forward and backward pass is the plain rows' own."""

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nemo_srlm.data.chat import Document
from nemo_srlm.train import prefix
from nemo_srlm.train.batches import BatchLayout, collate, row_length, unit_parts

PLAIN = BatchLayout(packed=True)
SHARED = BatchLayout(packed=True, shared=True)


def document(prompt: int, response: int, seed: int) -> Document:
    """The prompt has the ids 100, 101, ...; the response's are drawn."""
    ids = [*range(100, 100 + prompt), *np.random.default_rng(seed).integers(3, 60, response).tolist()]
    return Document(np.array(ids, np.int32), np.array([0.0] * prompt + [1.0] * response, np.float32))


def pair(prompt: int, chosen: int, rejected: int, seed: int = 0) -> tuple[Document, Document]:
    return document(prompt, chosen, seed), document(prompt, rejected, seed + 1)


def test_the_prompts_last_token_predicts_both_responses_so_it_is_not_shared():
    assert prefix.shared_inputs(*pair(50, 5, 9)) == 49
    (batch,) = [collate([pair(50, 5, 9)], [0], SHARED)]
    assert batch.bounds_N1 is not None
    assert batch.prefixes_N is not None
    assert batch.bounds_N1.tolist() == [0, 49, 49 + 5, 49 + 5 + 9]
    assert batch.prefixes_N.tolist() == [-1, 0, 0]
    assert batch.tokens_BS[0, [49, 54]].tolist() == [149, 149]
    assert batch.positions_S[[49, 54]].tolist() == [49, 49]
    assert batch.labels_BS[0, 49] != batch.labels_BS[0, 54]
    assert batch.weights_BS[0, 49] == batch.weights_BS[0, 54] == 1


def test_what_is_shared_ends_where_the_prompts_part_or_a_loss_begins():
    one, other = pair(60, 5, 5)
    changed = one.ids.copy()
    changed[40] = 7
    assert prefix.shared_inputs(dataclasses.replace(one, ids=changed), other) == 40
    assert prefix.shared_inputs(one, one) == 59, "the responses' own beginning has a loss in each"
    counted = other.weights.copy()
    counted[50] = 0.25
    assert prefix.shared_inputs(one, dataclasses.replace(other, weights=counted)) == 49
    for short in (1, prefix.SHORTEST):
        assert prefix.shared_inputs(*pair(short, 5, 5)) == 0
    assert prefix.shared_inputs(*pair(prefix.SHORTEST + 1, 5, 5)) == prefix.SHORTEST


def test_a_unit_without_a_shared_prompt_is_laid_out_as_ever():
    units = [(*pair(5, 4, 9), document(30, 8, 3)), (*pair(5, 7, 7, 4), document(50, 8, 3))]
    plain, shared = (collate(units, [0, 1], layout) for layout in (PLAIN, SHARED))
    for field in dataclasses.fields(plain):
        assert np.array_equal(getattr(plain, field.name), getattr(shared, field.name))


def test_a_replayed_example_keeps_its_own_part():
    batch = collate([(*pair(50, 5, 9), document(40, 8, 3))], [0], SHARED)
    assert batch.bounds_N1 is not None
    assert batch.prefixes_N is not None
    assert np.diff(batch.bounds_N1).tolist() == [49, 5, 9, 47]
    assert batch.prefixes_N.tolist() == [-1, 0, 0, -1]


units_strategy = st.lists(st.tuples(st.integers(2, 90), st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=6)


@given(units_strategy, st.sampled_from([1, 4]), st.sampled_from([1, 16]), st.booleans())
def test_every_token_with_a_loss_sees_what_it_sees_in_its_document(
    lengths: list[tuple[int, int, int]], align: int, multiple: int, replay: bool
):
    """A part's tokens after its prefix's are the document's; positions count on; padding stands behind, never between."""
    layout = dataclasses.replace(SHARED, align=align, multiple=multiple)
    units = [(*pair(p, c, r, 2 * i), *([document(6, 5, i)] if replay else [])) for i, (p, c, r) in enumerate(lengths)]
    documents = [d for unit in units for d in unit]
    batch = collate(units, range(len(units)), layout)
    assert batch.bounds_N1 is not None
    prefixes = batch.prefixes_N if batch.prefixes_N is not None else np.full(len(batch.bounds_N1) - 1, -1)
    spans = [slice(a, b) for a, b in zip(batch.bounds_N1[:-1], batch.bounds_N1[1:], strict=True)]
    assert (
        batch.bounds_N1[-1]
        == batch.tokens_BS.shape[1]
        == row_length([[part.length for part in unit_parts(unit, 0, layout)] for unit in units], layout)
    )
    counted = np.zeros(len(documents))
    for span, place in zip(spans, prefixes, strict=True):
        real = batch.segments_BS[0, span] < len(documents)
        if not real.any():
            continue
        seen = batch.tokens_BS[0, span][real].tolist()
        at = batch.positions_S[span][real].tolist()
        if place >= 0:
            assert (batch.segments_BS[0, spans[place]] < len(documents)).all(), "padding between a prefix and its rest"
            seen = batch.tokens_BS[0, spans[place]].tolist() + seen
            at = batch.positions_S[spans[place]].tolist() + at
        number = batch.segments_BS[0, span.start]
        assert seen == documents[number].ids[: len(seen)].tolist()
        assert at == list(range(len(seen)))
        counted[number] += batch.weights_BS[0, span].sum()
    assert counted.tolist() == [d.weights.sum() for d in documents]


def test_shared_rows_count_attention_once_where_it_is_computed_once():
    """Twice the causal pairs of query and key: those of the prefix, and of each response with the prefix and itself."""
    batch = collate([pair(50, 5, 9)], [0], SHARED)
    assert batch.num_tokens == 49 + 5 + 9
    assert batch.squared_lengths == 49**2 + 5 * (5 + 2 * 49) + 9 * (9 + 2 * 49)
