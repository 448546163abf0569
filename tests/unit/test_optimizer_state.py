"""Flat ranges of a tensor as rectangles."""

import itertools

import numpy as np
import pytest

from nemo_srlm.train.megatron.optimizer_state import rectangles


@pytest.mark.parametrize(("shape", "most"), [((7,), 1), ((4, 5), 3), ((1, 6), 3), ((6, 1), 3), ((3, 2, 4), 5)])
def test_rectangles_are_the_range_in_its_order(shape: tuple[int, ...], most: int):
    numbers = np.arange(np.prod(shape)).reshape(shape)
    for start, stop in itertools.combinations_with_replacement(range(numbers.size + 1), 2):
        found = list(rectangles(shape, start, stop))
        assert len(found) <= most
        parts = [numbers[tuple(slice(a, a + n) for a, n in zip(offset, sizes, strict=True))] for offset, sizes in found]
        assert [int(x) for part in parts for x in part.reshape(-1)] == list(range(start, stop))
        assert all(part.shape == sizes for part, (_, sizes) in zip(parts, found, strict=True))
