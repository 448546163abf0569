"""The statistics behind every claim: means, paired differences, their 95% intervals, and when a difference is called one.

Data are summed by UNIT first: a prompt with all its samples, an instruction with all its pairs. Units are independent, what
lies inside one is not. `Units`: unit -> (sum of the values, their number); a mean is the sum of sums over the sum of numbers.
No interval here has width 0: where all values agree, a plain normal interval or bootstrap does, and claims certainty.
tools/bench/coverage.py simulates how often each interval covers the truth.

Shapes: K units.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Units = Mapping[str, tuple[float, float]]
Verdict = Literal["up", "down", "same", "unclear", "too_few"]

Z95 = 1.959963984540054
ROUNDING = 1e-12  # of figures of size 1: a smaller spread is that of the arithmetic
MIN_UNITS = 20  # below, no difference gets a verdict: tools/bench/coverage.py
MIN_SEEDS = 3  # below, no interval over seeds: with two it is 13 standard errors wide on either side


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference with its 95% interval (None: not known) and the number of independent units behind it."""

    value: float
    low: float | None
    high: float | None
    num: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def t_quantile(degrees: float) -> float:
    """The 97.5% quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def wilson(successes: float, total: float, quantile: float = Z95) -> tuple[float, float]:
    """95% interval of a share by Wilson's score method (1927); (0, 1) when `total` is 0."""
    if total <= 0:
        return 0.0, 1.0
    p, zz = successes / total, quantile * quantile / total
    centre, half = p + zz / 2, quantile * math.sqrt(p * (1 - p) / total + zz / (4 * total))
    return max(0.0, (centre - half) / (1 + zz)), min(1.0, (centre + half) / (1 + zz))


def sign_test(wins: int, losses: int) -> float:
    """Exact two-sided binomial p-value of a split at least as uneven as this one under equal odds; ties are left out."""
    n, k = wins + losses, min(wins, losses)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / (1 << n)
    return min(1.0, 2 * tail)


def grouped(values: Iterable[tuple[str, float]]) -> dict[str, tuple[float, float]]:
    """Units of (unit, value) of each sample."""
    found: dict[str, tuple[float, float]] = {}
    for unit, value in values:
        total, number = found.get(unit, (0.0, 0.0))
        found[unit] = (total + value, number + 1)
    return found


def mean(units: Units, low: float | None = None, high: float | None = None) -> Estimate | None:
    """The mean of values between `low` and `high` (None: unbounded); None without any.

    Bounded: Wilson's score interval at the effective number of units, p (1 - p) / var(p), as for shares of a clustered
    sample (Korn & Graubard 1998), with Student's quantile. Unbounded: Student's interval, none for one unit or no spread.
    """
    sums, numbers = _arrays(units)
    if not len(sums):
        return None
    value, k = float(sums.sum() / numbers.sum()), len(sums)
    residuals = (sums - value * numbers) / numbers.mean()
    if low is None or high is None:
        return Estimate(value, *_student(value + residuals), k)
    return bounded(value, math.sqrt(float((residuals**2).mean()) / k), k, low, high)


def bounded(value: float, error: float, num: int, low: float = 0.0, high: float = 1.0) -> Estimate:
    """A mean of `num` units between `low` and `high` that is known by its standard error alone, as other programs state it."""
    if num < 2:
        return Estimate(value, low, high, num)
    share = (value - low) / (high - low)
    variance, spread = (error / (high - low)) ** 2, share * (1 - share)
    effective = spread / variance if spread > 0 and variance > ROUNDING**2 else float(num)
    lower, upper = wilson(share * effective, effective, t_quantile(num - 1))
    ends = low + (high - low) * lower, low + (high - low) * upper
    return Estimate(value, min(value, ends[0]), max(value, ends[1]), num)


def difference(first: Units, second: Units, span: float | None) -> Estimate | None:
    """Mean of `second` minus mean of `first` over the units that both have; None without a common one.

    Paired: what makes one prompt harder than another cancels. Two units are added to Student's interval, one with plus and one
    with minus the root mean square of the differences that are not 0: for win, tie and loss that is Bonett & Price's interval
    (2012), and an interval keeps a width where few units differ. Where none differs they are `span`, the largest possible
    difference; without it (None) there is no interval then.
    """
    common = [u for u in first if u in second and first[u][1] > 0 and second[u][1] > 0]
    if not common:
        return None
    (a, n_a), (b, n_b) = (_arrays({u: side[u] for u in common}) for side in (first, second))
    mean_a, mean_b = float(a.sum() / n_a.sum()), float(b.sum() / n_b.sum())
    value = mean_b - mean_a
    each = value + (b - mean_b * n_b) / n_b.mean() - (a - mean_a * n_a) / n_a.mean()  # [K]; its mean is `value`
    moved = each[np.abs(each) > ROUNDING]
    size = math.sqrt(float((moved**2).mean())) if len(moved) else span
    if size is None:
        return Estimate(value, None, None, len(common))
    low, high = _student(np.concatenate([each, [-size, size]]))
    assert low is not None
    assert high is not None
    bound = math.inf if span is None else span
    return Estimate(value, min(value, max(-bound, low)), max(value, min(bound, high)), len(common))


def of_values(values: Sequence[float], least: int = MIN_SEEDS) -> Estimate | None:
    """Mean and Student's interval of independent values, such as one per seed; no interval for fewer than `least`."""
    if not values:
        return None
    x = np.asarray(values, dtype=np.float64)
    low, high = _student(x) if len(x) >= least else (None, None)
    return Estimate(float(x.mean()), low, high, len(x))


def verdict(found: Estimate, margin: float, least: int = MIN_UNITS) -> Verdict:
    """What may be said of a difference.

    up, down: the interval excludes 0. same: it lies within ± margin (equivalence, two one-sided tests at 2.5%). unclear:
    neither. too_few: fewer than `least` units, whatever the interval.
    """
    if found.num < least:
        return "too_few"
    if found.low is None or found.high is None:
        return "unclear"
    if found.low > 0 or found.high < 0:
        return "up" if found.low > 0 else "down"
    return "same" if -margin <= found.low and found.high <= margin else "unclear"


def _arrays(units: Units) -> tuple[Array, Array]:
    """Sums and numbers [K] of the units that have any value."""
    kept = [pair for pair in units.values() if pair[1] > 0]
    table = np.array(kept, dtype=np.float64).reshape(len(kept), 2)
    return table[:, 0], table[:, 1]


def _student(values: Array) -> tuple[float | None, float | None]:
    """Student's 95% interval of the mean; (None, None) for one value and where all are equal but for rounding."""
    size = max(1.0, float(np.abs(values).max(initial=0.0)))
    if len(values) < 2 or not (spread := float(values.std(ddof=1))) > ROUNDING * size:
        return None, None
    centre, half = float(values.mean()), t_quantile(len(values) - 1) * spread / math.sqrt(len(values))
    return centre - half, centre + half
