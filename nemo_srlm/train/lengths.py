"""Lengths of the documents that an estimate is made for: drawn from a distribution. A run's own: report/estimate.py."""

import math
from collections.abc import Sequence

import numpy as np

Units = Sequence[tuple[int, ...]]  # tokens of the documents of each unit (SFT 1, a DPO pair 2, + 1 replayed)

MEDIAN, SIGMA = 250.0, 0.8  # tokens of prompt and response; so 5% are longer than 930
SHORTEST = 8


def lognormal(
    num: int, documents: int, longest: int, median: float = MEDIAN, sigma: float = SIGMA
) -> list[tuple[int, ...]]:
    """`num` units with lognormal lengths. Longer ones than `longest` are drawn again: a training drops them."""
    rng = np.random.default_rng(0)
    found: list[tuple[int, ...]] = []
    while len(found) < num:
        drawn = np.maximum(SHORTEST, rng.lognormal(math.log(median), sigma, (num, documents))).astype(int)
        found += [tuple(int(n) for n in unit) for unit in drawn if max(unit) <= longest]
    return found[:num]


def mean_tokens(units: Units) -> float:
    """Mean tokens of a document."""
    lengths = [n for unit in units for n in unit]
    return sum(lengths) / len(lengths)
