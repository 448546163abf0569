"""How often do the report's intervals cover the truth: simulation of evaluate/statistics.py beside what it replaced.

    python tools/bench/coverage.py                 all sizes; docs/measurements.md names the command of its table
    python tools/bench/coverage.py --draws 200     quick

Each row is a kind of data with a known truth, each column a method: its coverage, in brackets its mean width. 95% is the
aim; an interval of width 0 that misses the truth counts as a miss, as it should.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nemo_srlm.evaluate.statistics import Z95, difference, mean

Draw = Callable[[np.random.Generator, int], np.ndarray]


@dataclass(frozen=True)
class Kind:
    """Values of n units, drawn; what their mean is in truth; bounds of a mean, or the span of a difference."""

    name: str
    draw: Draw
    truth: float
    low: float
    high: float
    paired: bool = False


def share(p: float) -> Kind:
    return Kind(f"share {p}", lambda g, n: (g.random(n) < p).astype(float), p, 0, 1)


def judge(p: float) -> Kind:
    """Pairs that a judge orders right: 6 an instruction, alike within it (beta-binomial)."""
    return Kind(
        f"judge {p}, 6 pairs each", lambda g, n: g.binomial(6, g.beta(3 * p, 3 * (1 - p), n)) / 6, p, 0, 1
    )  # fmt: skip


def net(win: float, loss: float) -> Kind:
    def draw(g: np.random.Generator, n: int) -> np.ndarray:
        u = g.random(n)
        return (u < win).astype(float) - (u > 1 - loss)

    return Kind(f"wins {win}, losses {loss}", draw, win - loss, -1, 1, paired=True)


def judges() -> Kind:
    """The change of a judge: most instructions keep their order."""

    def draw(g: np.random.Generator, n: int) -> np.ndarray:
        return np.where(g.random(n) < 0.2, g.integers(-2, 2, n) / 6, 0.0)

    return Kind("judge, change in one of five", draw, 0.2 * -0.5 / 6, -1, 1, paired=True)


def scores() -> Kind:
    """Oracle levels 0 to 5 of two models on the same prompts: equally good ones, so that rounding adds no bias."""

    def draw(g: np.random.Generator, n: int) -> np.ndarray:
        prompt = g.normal(3.2, 1, n)
        first, second = (np.clip(np.round(prompt + g.normal(0, 0.7, n)), 0, 5) for _ in range(2))
        return second - first

    return Kind("scores 0 to 5", draw, 0.0, -5, 5, paired=True)


KINDS = [share(0.5), share(0.8), share(0.95), judge(0.5), judge(0.8), judge(0.95), net(0.3, 0.3), net(0.6, 0.1),
         net(0.1, 0.05), net(0.05, 0), net(0.02, 0.02), judges(), scores()]  # fmt: skip


def normal(values: np.ndarray) -> tuple[float, float]:
    """What the report used before."""
    half = Z95 * values.std(ddof=1) / np.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def ours(kind: Kind, values: np.ndarray) -> tuple[float, float]:
    units = {str(i): (float(v), 1.0) for i, v in enumerate(values)}
    zero = dict.fromkeys(units, (0.0, 1.0))
    found = difference(zero, units, kind.high) if kind.paired else mean(units, kind.low, kind.high)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def coverage(kind: Kind, n: int, draws: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Method -> (share of the draws whose interval holds the truth, mean width)."""
    generator = np.random.default_rng(seed)
    found: dict[str, list[tuple[bool, float]]] = {"report": [], "normal": []}
    for _ in range(draws):
        values = kind.draw(generator, n)
        for method, (low, high) in (("report", ours(kind, values)), ("normal", normal(values))):
            found[method].append((bool(low <= kind.truth <= high), high - low))
    return {m: (float(np.mean([c for c, _ in v])), float(np.mean([w for _, w in v]))) for m, v in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, nargs="+", default=[10, 20, 50, 350])
    parser.add_argument("--draws", type=int, default=4000)
    args = parser.parse_args()
    print("| data | " + " | ".join(f"{n}: report | {n}: normal" for n in args.units) + " |")
    print("|---" * (1 + 2 * len(args.units)) + "|")
    for kind in KINDS:
        cells = []
        for n in args.units:
            found = coverage(kind, n, args.draws)
            cells += [f"{found[m][0]:.3f} ({found[m][1]:.2f})" for m in ("report", "normal")]
        print(f"| {kind.name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
