"""AlpacaEval 2: writes model_outputs.json, reads annotation files, win rates as the public leaderboard states them.

A preference is 1 where the baseline is preferred and 2 where the model is, anything between for a judge that gives
probabilities, and 0 or 1.5 for a draw. The length-controlled win rate (Dubois et al., arXiv 2404.04475) asks what the
judge would have said had both outputs been of one length: a logistic regression of the preference on the difference in
length, the difficulty of the instruction and the model, with the length term then set to 0. It needs calibration data
that the authors fitted over all models of the leaderboard; `Calibration.read` takes their df_gamed.csv (of the data
set tatsu-lab/alpaca_eval) or a summary of it. Shapes: N annotated instructions, 3 coefficients
(length, difficulty, model).
"""

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nemo_srlm.core.files import open_text, write_json
from nemo_srlm.core.records import Candidate, Prompt
from nemo_srlm.errors import DataError

Array = npt.NDArray[np.float64]

GAMED_WEIGHT = 0.2  # of the two gamed baselines together, against 1 for the model's own annotations
FOLDS = 5
PENALTIES = tuple(float(c) for c in np.logspace(-4, 4, 10))  # C of the L1 penalty |w| / C, chosen by cross-validation


@dataclass(frozen=True)
class Annotation:
    """One judged instruction. `preference` is the model's: 0 the baseline's output won, 1 the model's, .5 a draw."""

    instruction: str
    preference: float | None
    baseline_output: str
    model_output: str
    generator: str
    dataset: str = ""


def write_outputs(path: Path, prompts: Sequence[Prompt], responses: Iterable[Candidate], generator: str) -> int:
    """model_outputs.json as `alpaca_eval --model_outputs` wants it: the first sample of each prompt, in prompt order.

    Raises DataError when a prompt has no response. Returns the number of outputs.
    """
    first = {r.prompt_id: r for r in responses if r.index == 0}
    if missing := [p.id for p in prompts if p.id not in first]:
        raise DataError(
            path, f"{len(missing)} prompts have no response, the first: {missing[0]}", "one for each prompt"
        )
    rows = [{"instruction": p.text, "output": first[p.id].text, "generator": generator} for p in prompts]
    write_json(path, rows)
    return len(rows)


def preference(value: object, where: str) -> float | None:
    """AlpacaEval's coding (1..2, 0 or 1.5 for a draw, null) as the model's share 0..1. Raises DataError otherwise."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(where, f"preference {value!r}", "a number or null")
    if value == 0:
        return 0.5
    if not 1 <= value <= 2:
        raise DataError(where, f"preference {value!r}", "0, or 1 (the baseline) to 2 (the model)")
    return float(value) - 1.0


def read_annotations(path: Path) -> list[Annotation]:
    """annotations.json (or .json.gz) of the alpaca_eval package, in the file's order. Raises DataError."""
    rows = _read_json(path)
    if not isinstance(rows, list) or not rows:
        raise DataError(path, "no list of annotations", "annotations.json of alpaca_eval")
    fields = ("instruction", "preference", "output_1", "output_2", "generator_2")
    found = []
    for number, row in enumerate(rows):
        where = f"{path}[{number}]"
        if not isinstance(row, dict) or (missing := [f for f in fields if f not in row]):
            raise DataError(where, f"not an annotation (missing: {missing})", f"an object with {', '.join(fields)}")
        dataset = row["dataset"] if isinstance(row.get("dataset"), str) else ""
        found.append(
            Annotation(
                row["instruction"], preference(row["preference"], where), row["output_1"], row["output_2"],
                row["generator_2"], dataset,
            )
        )  # fmt: skip
    if len(names := {a.generator for a in found}) > 1:
        raise DataError(path, f"annotations of several models: {sorted(names)[:3]}", "one model a file")
    return found


def _read_json(path: Path) -> Any:
    try:
        with open_text(path) as f:
            return json.load(f)
    except FileNotFoundError as error:
        raise DataError(path, "no such file") from error
    except json.JSONDecodeError as error:
        raise DataError(path, f"not JSON ({error})") from error


def win_rate(annotations: Sequence[Annotation]) -> dict[str, Any]:
    """The leaderboard's columns, in percent: win_rate, standard_error, discrete_win_rate, and the counts behind them.

    Annotations without a preference are left out and counted (`n_missing`). Raises DataError when none is left.
    """
    values = [a.preference for a in annotations if a.preference is not None]
    if not values:
        raise DataError("annotations", "not one preference", "at least one")
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
        # cut to a whole number, as the leaderboard has it
        "avg_length": int(sum(len(a.model_output) for a in annotations) / len(annotations)),
    }


def standard_error(values: Sequence[float]) -> float:
    """Of the mean: sample standard deviation over the root of the count; nan with one value."""
    x = np.asarray(values, dtype=np.float64)
    return float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan


# --- length control -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """What the authors fitted over the leaderboard.

    `difficulty` [805]: of each instruction of the evaluation set, by its place. `gamed` [G, 2]: tanh of the standardised
    length difference and the difficulty of each annotation of the two gamed baselines (GPT-4 told to be verbose, and
    concise). `labels` [G]: their preferences. `sums` [2]: gamed.T @ labels, all that a fit needs of the labels; only
    the choice of the penalty needs the labels themselves, and there approximate ones do.
    """

    difficulty: Array
    gamed: Array
    sums: Array
    labels: Array

    @classmethod
    def read(cls, path: Path) -> "Calibration":
        """df_gamed.csv, or the JSON that tools/alpaca_calibration.py makes from the public repository. Raises DataError."""
        return cls._from_csv(path) if path.suffix == ".csv" else cls._from_json(path)

    @classmethod
    def _from_csv(cls, path: Path) -> "Calibration":
        fields = ("index", "preference", "std_delta_len", "instruction_difficulty")
        try:
            with path.open(encoding="utf-8", newline="") as f:
                rows = list(csv.DictReader(f))
        except FileNotFoundError as error:
            raise DataError(path, "no such file", "df_gamed.csv of the data set tatsu-lab/alpaca_eval") from error
        if not rows or (missing := [name for name in fields if name not in rows[0]]):
            raise DataError(path, f"columns missing: {missing if rows else list(fields)}", "df_gamed.csv as published")
        difficulty: dict[int, float] = {}
        for row in rows:
            difficulty.setdefault(int(float(row["index"])), float(row["instruction_difficulty"]))
        kept = [row for row in rows if row["preference"] not in ("", "nan")]
        gamed = np.array([[math.tanh(float(r["std_delta_len"])), float(r["instruction_difficulty"])] for r in kept])
        labels = np.array([float(row["preference"]) for row in kept])
        ordered = np.array([difficulty[i] for i in sorted(difficulty)])
        return cls(ordered, gamed, gamed.T @ labels, labels)

    @classmethod
    def _from_json(cls, path: Path) -> "Calibration":
        data = _read_json(path)
        try:
            difficulty = np.asarray(data["difficulty"], dtype=np.float64)
            deltas = [np.asarray(d, dtype=np.float64) for d in data["gamed_length_deltas"]]
            weights = [np.asarray(w, dtype=np.float64) for w in data["gamed_weights"]]
            sums = np.asarray(data["sums"], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(path, f"no calibration ({error!r})", "what tools/alpaca_calibration.py writes") from error
        columns = [np.stack([np.tanh(d / d.std(ddof=1)), difficulty], axis=1) for d in deltas]
        labels = [_sigmoid(x @ w[:2] + w[2]) for x, w in zip(columns, weights, strict=True)]
        return cls(difficulty, np.concatenate(columns), sums, np.concatenate(labels))


def length_controlled(
    annotations: Sequence[Annotation], calibration: Calibration, penalty: float | None = None
) -> dict[str, float]:
    """{"length_controlled_winrate", "lc_standard_error" (both in percent), "penalty": C, "length", "difficulty", "model"}.

    An annotation is matched to its instruction's difficulty by its place in the file, as the package does. `penalty`:
    C of the L1 penalty; None chooses it by cross-validation.
    Raises DataError with more annotations than the calibration has instructions.
    """
    if len(annotations) > len(calibration.difficulty):
        raise DataError(
            "annotations",
            f"{len(annotations)} of them",
            f"at most the {len(calibration.difficulty)} of the calibration",
        )
    delta = np.array([len(a.baseline_output) - len(a.model_output) for a in annotations], dtype=np.float64)
    spread = float(delta.std(ddof=1)) if len(delta) > 1 else 0.0
    length = np.tanh(delta / spread) if spread > 0 else np.zeros_like(delta)
    difficulty = calibration.difficulty[: len(annotations)]
    x_all = np.stack([length, difficulty, np.ones_like(length)], axis=1)
    known = np.array([a.preference is not None for a in annotations])
    y = np.array([a.preference for a in annotations if a.preference is not None])
    if not len(y):
        raise DataError("annotations", "not one preference", "at least one")
    x = x_all[known]
    chosen = penalty or _choose_penalty(x, y, calibration)
    w = fit(x, y, calibration.gamed, calibration.sums, chosen)
    controlled = _sigmoid(difficulty * w[1] + w[2])
    return {
        "length_controlled_winrate": 100 * float(controlled.mean()),
        "lc_standard_error": 100 * standard_error(list(controlled)),
        "penalty": chosen,
        "length": float(w[0]),
        "difficulty": float(w[1]),
        "model": float(w[2]),
    }


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
            p = _sigmoid(x @ w)
            gradient, curvature = float(x[:, j] @ (p - y)), float((x[:, j] ** 2) @ (p * (1 - p)))
            if j < 2 and len(gamed):
                q = _sigmoid(gamed @ w[:2])
                gradient += weight * float(gamed[:, j] @ q - sums[j])
                curvature += weight * float((gamed[:, j] ** 2) @ (q * (1 - q)))
            step = _soft(curvature * w[j] - gradient, 1 / penalty) / max(curvature, 1e-12) - w[j]
            step = float(np.clip(step, -2.0, 2.0))  # a Newton step from far away may overshoot
            w[j] += step
            largest = max(largest, abs(step))
        if largest < 1e-9:
            break
    return w


def _choose_penalty(x: Array, y: Array, calibration: Calibration) -> float:
    """The C of PENALTIES with the smallest held-out log-loss over FOLDS folds; the smallest such C on a tie."""
    gamed, labels = calibration.gamed, calibration.labels
    # one order for all rows, the gamed ones first; row i belongs to fold i mod FOLDS
    own_fold = (np.arange(len(y)) + len(labels)) % FOLDS
    gamed_fold = np.arange(len(labels)) % FOLDS
    losses = dict.fromkeys(PENALTIES, 0.0)
    for k in range(FOLDS):
        a, b = own_fold != k, gamed_fold != k
        w: Array | None = None  # each penalty starts from the one before
        for penalty in PENALTIES:
            w = fit(x[a], y[a], gamed[b], gamed[b].T @ labels[b], penalty, w)
            own, other = _log_loss(x[~a] @ w, y[~a]), _log_loss(gamed[~b] @ w[:2], labels[~b])
            losses[penalty] += (float(own.sum()) + GAMED_WEIGHT / 2 * float(other.sum())) / (len(own) + len(other))
    return min(PENALTIES, key=lambda c: losses[c])


def _soft(value: float, threshold: float) -> float:
    return math.copysign(max(0.0, abs(value) - threshold), value)


def _sigmoid(z: Array) -> Array:
    found: Array = np.exp(-np.logaddexp(0.0, -z))
    return found


def _log_loss(z: Array, y: Array) -> Array:
    found: Array = np.logaddexp(0.0, z) - y * z
    return found


def summary(annotations: Sequence[Annotation], calibration: Calibration | None = None) -> dict[str, Any]:
    """A leaderboard row: `win_rate`, and with a calibration `length_controlled` beside it."""
    row = {"generator": annotations[0].generator, **win_rate(annotations)}
    return row if calibration is None else {**row, **length_controlled(annotations, calibration)}
