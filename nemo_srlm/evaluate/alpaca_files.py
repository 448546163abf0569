"""The files of the alpaca_eval package: writes model_outputs.json; reads annotations and the length-control calibration."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nemo_srlm.config.text_files import text_file
from nemo_srlm.core.files import read_json, write_json
from nemo_srlm.core.records import Candidate, Prompt
from nemo_srlm.errors import DataError
from nemo_srlm.evaluate.alpaca import Annotation, Calibration, instruction_key, sigmoid


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
    """The package's coding as the model's share 0..1: 1 the baseline won, 2 the model won, between them a judge's
    probability, 0 or 1.5 a draw, null or NaN no preference (None). Raises DataError for anything else."""
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
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise DataError(path, "no list of annotations", "annotations.json of alpaca_eval")
    fields = ("instruction", "preference", "output_1", "output_2", "generator_2")
    found = []
    for number, row in enumerate(rows):
        where = f"{path}[{number}]"
        missing = [f for f in fields if f not in row] if isinstance(row, dict) else list(fields)
        if missing:
            raise DataError(where, f"not an annotation (missing: {missing})", f"an object with {', '.join(fields)}")
        if wrong := [f for f in ("instruction", "output_1", "output_2", "generator_2") if not isinstance(row[f], str)]:
            raise DataError(where, f"{wrong[0]}: a {type(row[wrong[0]]).__name__}", "a text")
        share = preference(row["preference"], where)
        found.append(Annotation(share, row["output_1"], row["output_2"], row["generator_2"], row["instruction"]))
    if len(names := {a.generator for a in found}) > 1:
        raise DataError(path, f"annotations of several models: {sorted(names)[:3]}", "one model per file")
    return found


def read_calibration(path: Path, instructions: Path | None = None) -> Calibration:
    """The authors' df_gamed.csv (data set tatsu-lab/alpaca_eval), or the JSON summary that tools/alpaca_calibration.py
    derives from their public annotations.

    instructions: the evaluation set in its order (alpaca_eval_gpt4_baseline.json, or any model's outputs), for a calibration
    that does not hold it, as df_gamed.csv. Raises DataError, also where the two do not have the same number.
    """
    found = _from_csv(path) if path.suffix == ".csv" else _from_json(path)
    if instructions is None:
        return found
    keys = read_instructions(instructions)
    if len(keys) != len(found.difficulty):
        raise DataError(instructions, f"{len(keys)} instructions", f"the {len(found.difficulty)} of {path}")
    return replace(found, instructions=keys)


def read_instructions(path: Path) -> tuple[str, ...]:
    """The keys of the evaluation set's instructions, in its order. Raises DataError."""
    rows = read_json(path)
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("instruction"), str) for row in rows
    ):
        raise DataError(path, "no list of objects with `instruction`", "the evaluation set, as alpaca_eval has it")
    return tuple(instruction_key(row["instruction"]) for row in rows)


def _from_csv(path: Path) -> Calibration:
    fields = ("index", "preference", "std_delta_len", "instruction_difficulty")
    with text_file(path, "df_gamed.csv of the data set tatsu-lab/alpaca_eval") as f:
        try:
            rows = list(csv.DictReader(f))
        except csv.Error as error:
            raise DataError(path, f"no CSV ({error})", "df_gamed.csv of the data set tatsu-lab/alpaca_eval") from error
    if not rows or (missing := [name for name in fields if name not in rows[0]]):
        raise DataError(path, f"columns missing: {missing if rows else list(fields)}", "df_gamed.csv as published")
    difficulty: dict[int, float] = {}
    try:
        for row in rows:
            difficulty.setdefault(int(float(row["index"])), float(row["instruction_difficulty"]))
        kept = [row for row in rows if row["preference"] not in ("", "nan")]
        gamed = np.array([[math.tanh(float(r["std_delta_len"])), float(r["instruction_difficulty"])] for r in kept])
        labels = np.array([float(row["preference"]) for row in kept])
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(path, f"no calibration ({error})", "df_gamed.csv as published") from error
    ordered = np.array([difficulty[i] for i in sorted(difficulty)])
    return _usable(path, Calibration(ordered, gamed, gamed.T @ labels if len(gamed) else np.zeros(2), labels))


def _usable(path: Path, found: Calibration) -> Calibration:
    """Raises DataError for figures that are not finite or do not belong together."""
    arrays = (found.difficulty, found.gamed, found.sums, found.labels)
    if not (len(found.gamed) and found.sums.shape == (2,) and all(np.isfinite(a).all() for a in arrays)):
        raise DataError(
            path, "figures that are absent or not finite", "df_gamed.csv, or what tools/alpaca_calibration.py writes"
        )
    return found


def _from_json(path: Path) -> Calibration:
    data = read_json(path)
    try:
        difficulty = np.asarray(data["difficulty"], dtype=np.float64)
        deltas = [np.asarray(d, dtype=np.float64) for d in data["gamed_length_deltas"]]
        weights = [np.asarray(w, dtype=np.float64) for w in data["gamed_weights"]]
        sums = np.asarray(data["sums"], dtype=np.float64)
        instructions = tuple(map(str, data.get("instructions", ())))
        with np.errstate(all="ignore"):  # _usable looks at the result
            columns = [np.stack([np.tanh(d / d.std(ddof=1)), difficulty], axis=1) for d in deltas]
            labels = [sigmoid(x @ w[:2] + w[2]) for x, w in zip(columns, weights, strict=True)]
        found = Calibration(difficulty, np.concatenate(columns), sums, np.concatenate(labels), instructions)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise DataError(path, f"no calibration ({error!r})", "what tools/alpaca_calibration.py writes") from error
    return _usable(path, found)
