"""AlpacaEval 2: the win rates of annotated instructions, computed as the public leaderboard computes them.

`win_rate` is the raw rate. `length_controlled` (Dubois et al., arXiv 2404.04475) estimates the rate that the judge would
have given if both outputs had the same length: a logistic regression of the preference on length difference,
instruction difficulty and model, evaluated with the length term set to 0. It needs the authors' calibration data.
alpaca_files.py reads and writes the files.

Shapes: N annotated instructions, G annotations of the gamed baselines, 3 coefficients (length, difficulty, model).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nemo_srlm.core.records import content_id
from nemo_srlm.errors import DataError
from nemo_srlm.evaluate import alpaca_folds

Array = npt.NDArray[np.float64]

GAMED_WEIGHT = 0.2  # of the two gamed baselines together, against 1 for the model's own annotations
FOLDS = 5
SET_SIZE = 805  # instructions of AlpacaEval's evaluation set
PENALTIES = tuple(float(c) for c in np.logspace(-4, 4, 10))  # C of the L1 penalty |w| / C, chosen by cross-validation


@dataclass(frozen=True)
class Annotation:
    """One judged instruction. `preference` is the model's share: 0 the baseline's output won, 1 the model's, .5 a draw."""

    preference: float | None
    baseline_output: str
    model_output: str
    generator: str
    instruction: str = ""


@dataclass(frozen=True)
class Calibration:
    """What the authors fitted over the leaderboard.

    `difficulty` [805]: of each instruction of the evaluation set, in the set's order; `instructions` [805]: their keys
    (`instruction_key`), empty where the file does not say. `gamed` [G, 2]: tanh of the standardised
    length difference, and the difficulty, of each annotation of the two gamed baselines (GPT-4 prompted to be verbose,
    and to be concise). `labels` [G]: their preferences. `sums` [2]: gamed.T @ labels, which is all that a fit needs of the
    labels; the choice of the penalty needs the labels themselves, where approximate ones are good enough.
    """

    difficulty: Array
    gamed: Array
    sums: Array
    labels: Array
    instructions: tuple[str, ...] = ()


def instruction_key(text: str) -> str:
    """What an instruction is recognised by: a digest, so that a calibration need not hold the texts."""
    return content_id("alpaca", text)


def by_instruction(annotations: Sequence[Annotation]) -> dict[str, Annotation]:
    """Instruction's key -> its annotation. Raises DataError for an instruction that is annotated twice."""
    found: dict[str, Annotation] = {}
    for annotation in annotations:
        key = instruction_key(annotation.instruction)
        if key in found:
            raise DataError("annotations", f"twice: {annotation.instruction[:80]!r}", "every instruction once")
        found[key] = annotation
    return found


def size_of_set(annotations: Mapping[str, Annotation], instructions: Sequence[str]) -> int:
    """How many instructions the evaluation set has of which these are annotations: SET_SIZE where `instructions` (the keys of
    its instructions) is empty. Raises DataError for annotations of instructions that are not in the set.
    """
    known = set(instructions)
    if known and (unknown := [a.instruction for key, a in annotations.items() if key not in known]):
        raise DataError(
            "annotations", f"{len(unknown)} instructions that are not in the evaluation set, the first: {unknown[0][:80]!r}",
            f"the {len(known)} of the evaluation set",
        )  # fmt: skip
    size = len(known) or SET_SIZE
    if len(annotations) > size:
        raise DataError("annotations", f"{len(annotations):,} instructions", f"the {size} of the evaluation set")
    return size


def win_rate(annotations: Sequence[Annotation]) -> dict[str, Any]:
    """The leaderboard's columns, in percent: win_rate, standard_error, discrete_win_rate, and the counts behind them.

    Annotations without a preference are left out and counted (`n_missing`). Raises DataError when fewer than two are left,
    which have no standard error.
    """
    values = [a.preference for a in annotations if a.preference is not None]
    if len(values) < 2:
        raise DataError("annotations", f"{len(values)} with a preference of {len(annotations)}", "at least two")
    wins, losses = sum(v > 0.5 for v in values), sum(v < 0.5 for v in values)
    draws = len(values) - wins - losses
    return {
        "win_rate": 100 * math.fsum(values) / len(values),
        "standard_error": 100 * standard_error(values),
        "discrete_win_rate": 100 * (wins + draws / 2) / len(values),
        "n_wins": wins,
        "n_wins_base": losses,
        "n_draws": draws,
        "n_total": len(values),
        "n_missing": len(annotations) - len(values),
        # truncated to an integer, as on the leaderboard
        "avg_length": int(sum(len(a.model_output) for a in annotations) / len(annotations)),
    }


def standard_error(values: Sequence[float]) -> float:
    """Of the mean: sample standard deviation over the root of the count; nan with one value."""
    x = np.asarray(values, dtype=np.float64)
    return float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan


@dataclass(frozen=True)
class Design:
    """The regression of one model: [N] of every instruction, and which of them have a preference.

    `length`: tanh of the standardised difference in characters. `known` [N]; `preference` [number of known].
    """

    length: Array
    difficulty: Array
    known: npt.NDArray[np.bool_]
    preference: Array

    @property
    def x(self) -> Array:
        """[known, 3]: length, difficulty, model."""
        return np.stack([self.length, self.difficulty, np.ones_like(self.length)], axis=1)[self.known]


def design(annotations: Sequence[Annotation], calibration: Calibration) -> Design:
    """The annotations, in any order, as the regression's data. Raises DataError unless they are exactly the calibration's
    instructions, each once, and without any preference."""
    annotations = in_order(annotations, calibration)
    delta = np.array([len(a.baseline_output) - len(a.model_output) for a in annotations], dtype=np.float64)
    spread = float(delta.std(ddof=1)) if len(delta) > 1 else 0.0
    length = np.tanh(delta / spread) if spread > 0 else np.zeros_like(delta)
    known = np.array([a.preference is not None for a in annotations])
    y = np.array([a.preference for a in annotations if a.preference is not None])
    if not len(y):
        raise DataError("annotations", "not one preference", "at least one")
    return Design(length, calibration.difficulty, known, y)


def length_controlled(annotations: Sequence[Annotation], calibration: Calibration) -> dict[str, float]:
    """{"length_controlled_winrate", "lc_standard_error" (both in percent), "penalty": C, "length", "difficulty", "model",
    "length_controlled_winrate_other_folds"}.

    The generalised linear model of arXiv 2404.04475: logit p = length * tanh(dl / std(dl)) + difficulty * d + model, where dl is
    the difference in characters and d the instruction's calibrated difficulty; the rate is the mean of p at dl = 0. The last
    value is what a machine with other folds (alpaca_folds.py) computes. Raises DataError as `design` does.
    """
    data = design(annotations, calibration)
    penalty = choose_penalty(data, calibration, alpaca_folds.shuffled)
    w, controlled = at_penalty(data, calibration, penalty)
    _, other = at_penalty(data, calibration, choose_penalty(data, calibration, alpaca_folds.in_order))
    return {
        "length_controlled_winrate": 100 * float(controlled.mean()),
        "lc_standard_error": 100 * standard_error(list(controlled)),
        "penalty": penalty,
        "length": float(w[0]),
        "difficulty": float(w[1]),
        "model": float(w[2]),
        "length_controlled_winrate_other_folds": 100 * float(other.mean()),
    }


def at_penalty(data: Design, calibration: Calibration, penalty: float) -> tuple[Array, Array]:
    """(coefficients [3], [N] the preference at equal lengths) for one C of the penalty."""
    w = fit(data.x, data.preference, calibration.gamed, calibration.sums, penalty)
    return w, sigmoid(data.difficulty * w[1] + w[2])


def in_order(annotations: Sequence[Annotation], calibration: Calibration) -> list[Annotation]:
    """The annotations in the calibration's order, matched by instruction. Raises DataError unless they are all of it."""
    number = len(calibration.difficulty)
    if len(calibration.instructions) != number:
        raise DataError(
            "calibration", "it does not say which instructions its difficulties are of", "the evaluation set in its order",
            "give --instructions alpaca_eval_gpt4_baseline.json, or make the calibration again with tools/alpaca_calibration.py",
        )  # fmt: skip
    found = by_instruction(annotations)
    size_of_set(found, calibration.instructions)
    if missing := sum(key not in found for key in calibration.instructions):
        raise DataError(
            "annotations", f"{missing} of the {number} instructions are missing", "all: the rate of a part is another one",
            "annotate the rest; a judge that gave no answer leaves preference null",
        )  # fmt: skip
    return [found[key] for key in calibration.instructions]


def fit(x: Array, y: Array, gamed: Array, sums: Array, penalty: float, start: Array | None = None) -> Array:
    """The 3 coefficients that minimise the weighted log-loss + |w|_1 / penalty.

    Loss: x [N, 3], y [N] with weight 1, and the gamed rows [G, 2], which have no model term, with weight
    GAMED_WEIGHT / 2. Cyclic coordinate descent with Newton steps from `start` (the loss is convex), to 1e-9.
    """
    weight = GAMED_WEIGHT / 2
    w = np.zeros(3) if start is None else start.copy()
    for _ in range(500):
        largest = 0.0
        for j in range(3):
            p = sigmoid(x @ w)
            gradient, curvature = float(x[:, j] @ (p - y)), float((x[:, j] ** 2) @ (p * (1 - p)))
            if j < 2 and len(gamed):
                q = sigmoid(gamed @ w[:2])
                gradient += weight * float(gamed[:, j] @ q - sums[j])
                curvature += weight * float((gamed[:, j] ** 2) @ (q * (1 - q)))
            step = _soft(curvature * w[j] - gradient, 1 / penalty) / max(curvature, 1e-12) - w[j]
            step = float(np.clip(step, -2.0, 2.0))  # a Newton step far from the minimum may overshoot
            w[j] += step
            largest = max(largest, abs(step))
        if largest < 1e-9:
            break
    return w


def choose_penalty(data: Design, calibration: Calibration, folds: Callable[[int, int], alpaca_folds.Folds]) -> float:
    """The C of PENALTIES with the smallest held-out log-loss over FOLDS folds; the smallest such C on a tie."""
    x, y = data.x, data.preference
    gamed, labels = calibration.gamed, calibration.labels
    found = folds(len(labels) + len(y), FOLDS)  # of all rows, the gamed ones first
    gamed_fold, own_fold = found[: len(labels)], found[len(labels) :]
    losses = dict.fromkeys(PENALTIES, 0.0)
    for k in range(FOLDS):
        a, b = own_fold != k, gamed_fold != k
        w: Array | None = None  # each penalty starts from the solution of the one before
        for penalty in PENALTIES:
            w = fit(x[a], y[a], gamed[b], gamed[b].T @ labels[b], penalty, w)
            own, other = _log_loss(x[~a] @ w, y[~a]), _log_loss(gamed[~b] @ w[:2], labels[~b])
            losses[penalty] += (float(own.sum()) + GAMED_WEIGHT / 2 * float(other.sum())) / (len(own) + len(other))
    return min(PENALTIES, key=lambda c: losses[c])


def _soft(value: float, threshold: float) -> float:
    """Soft thresholding: the proximal step of the L1 penalty."""
    return math.copysign(max(0.0, abs(value) - threshold), value)


def sigmoid(z: Array) -> Array:
    found: Array = np.exp(-np.logaddexp(0.0, -z))
    return found


def _log_loss(z: Array, y: Array) -> Array:
    found: Array = np.logaddexp(0.0, z) - y * z
    return found


def leaderboard_row(
    annotations: Sequence[Annotation], calibration: Calibration | None, instructions: Sequence[str] = ()
) -> dict[str, Any]:
    """`generator`, `n_set` (instructions of the whole evaluation set), `win_rate`; with a calibration also `length_controlled`.

    instructions: the keys of the evaluation set, where it is known. Annotations of a part of it have a win rate of that part and
    no length-controlled one (`length_controlled` refuses them).
    """
    known = instructions or (calibration.instructions if calibration else ())
    row = {
        "generator": annotations[0].generator,
        "n_set": size_of_set(by_instruction(annotations), known),
        **win_rate(annotations),
    }
    return row if calibration is None else {**row, **length_controlled(annotations, calibration)}
