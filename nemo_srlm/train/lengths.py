"""Lengths of the documents that an estimate is made for: drawn from a distribution. A run's own: report/estimate.py."""

import math
from collections.abc import Sequence

import numpy as np

Units = Sequence[tuple[int, ...]]  # tokens of the documents of each unit (SFT 1, a DPO pair 2, + 1 replayed)

MEDIAN, SIGMA = 250.0, 0.8  # tokens of prompt and response; so 5% are longer than 930
SHORTEST = 8
RAREST = 1e-3  # share of the units that fit, below which drawing the others again would take minutes, or for ever


def share_that_fits(documents: int, longest: int, median: float, sigma: float) -> float:
    """The share of units with lognormal lengths that have no document longer than `longest`."""
    one = 0.5 * (1.0 + math.erf(math.log((longest + 1) / median) / (sigma * math.sqrt(2.0))))
    return one**documents if longest >= SHORTEST else 0.0


def lognormal(
    num: int, documents: int, longest: int, median: float = MEDIAN, sigma: float = SIGMA
) -> list[tuple[int, ...]]:
    """`num` units with lognormal lengths. Longer ones than `longest` are drawn again: a training drops them.

    Ask `share_that_fits` first.
    """
    rng = np.random.default_rng(0)
    found: list[tuple[int, ...]] = []
    while len(found) < num:
        drawn = rng.lognormal(math.log(median), sigma, (num, documents))
        drawn = np.clip(drawn, SHORTEST, longest + 1).astype(int)  # a wide sigma draws what no integer holds
        found += [tuple(int(n) for n in unit) for unit in drawn if max(unit) <= longest]
    return found[:num]


def mean_tokens(units: Units) -> float:
    """Mean tokens of a document."""
    lengths = [n for unit in units for n in unit]
    return sum(lengths) / len(lengths)
