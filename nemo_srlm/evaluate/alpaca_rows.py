"""`nemo-srlm alpaca`: a model's leaderboard row from the annotations of alpaca_eval, and its copy in a run directory.

The rows lie in annotations/ of the run directory, beside the iterations: they come from outside and are no stage's output.
"""

import re
from pathlib import Path
from typing import Any

from nemo_srlm.config.compose import load_resolved_config
from nemo_srlm.core.files import content_digest, read_json, write_json
from nemo_srlm.core.pipeline import evaluated_models
from nemo_srlm.errors import ConfigError, DataError

FOLDER = "annotations"
# Names of numbers end so.
_NUMBERS = ("_rate", "_error", "winrate", "_length", "_total", "_wins", "_draws", "_base", "_missing", "_set")
_NEEDED = {"win_rate", "standard_error", "discrete_win_rate", "n_total", "avg_length"}
_MODEL = re.compile(r"M\d+|baseline")


# Of the length-controlled rate against the public leaderboard (tools/bench/alpaca_rows.py): rows checked, within 0.02, the
# largest difference.
ACCURACY = (50, 45, 0.13)


def row_of(path: Path, calibration: Path | None, instructions: Path | None = None) -> dict[str, Any]:
    """win_rate, standard_error, discrete_win_rate, ... in percent; with a calibration also the length-controlled ones.

    `preferences`: instruction's key -> the model's share, for the comparison of two models. instructions: as in
    alpaca_files.read_calibration; without a calibration it says which instructions make the whole set.
    """
    from nemo_srlm.evaluate.alpaca import by_instruction, leaderboard_row
    from nemo_srlm.evaluate.alpaca_files import read_annotations, read_calibration, read_instructions

    annotations = read_annotations(path)
    known = read_calibration(calibration, instructions) if calibration else None
    keys = read_instructions(instructions) if instructions and not known else ()
    row = leaderboard_row(annotations, known, keys)
    shares = {key: a.preference for key, a in by_instruction(annotations).items() if a.preference is not None}
    return {**row, "file": str(path), "digest": content_digest(path)[:16], "preferences": shares}


def check_generator(run_dir: Path, model: str, row: dict[str, Any]) -> None:
    """Raises DataError unless the annotated responses are those that this run's model wrote for AlpacaEval."""
    if not _MODEL.fullmatch(model):
        return  # save_row says what a model is
    cfg = load_resolved_config(run_dir)
    places = {name: (t, suffix) for name, t, suffix in evaluated_models(cfg, cfg.iterations)}
    t, suffix = places.get(model, (-1, ""))
    path = run_dir / f"iter{t}" / f"eval_alpaca{suffix}" / "model_outputs.json"
    written = [entry["generator"] for entry in read_json(path)[:1]] if path.exists() else []
    if not written:
        raise DataError(
            run_dir, f"{model} has written no responses to AlpacaEval", "eval_alpaca of this model",
            "run it with eval.alpaca.prompts=FILE, or leave --run and --model out",
        )  # fmt: skip
    if row["generator"] != written[0]:
        raise DataError(
            row["file"], f"annotations of {row['generator']!r}", f"those of {written[0]!r}, which is {model} of {run_dir}",
            "name the run and the model whose responses were judged",
        )  # fmt: skip


def save_row(run_dir: Path, model: str, row: dict[str, Any]) -> Path:
    """Stores a row for the report of `run_dir`. Raises ConfigError for what is not a run or not a model of one."""
    if not (run_dir / "config.yaml").is_file():
        raise ConfigError("--run", f"{run_dir} has no config.yaml", "the directory of a run")
    if not _MODEL.fullmatch(model):
        raise ConfigError("--model", repr(model), "baseline, M1, M2, ...: the model whose responses were judged")
    path = run_dir / FOLDER / f"alpaca_{model}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, row)
    return path


def saved_rows(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Model -> its row, of all that `save_row` has stored. Raises DataError for a file that is not such a row."""
    rows = {}
    for path in sorted((run_dir / FOLDER).glob("alpaca_*.json")):
        row = read_json(path, finite=True)
        numbers = isinstance(row, dict) and all(
            isinstance(v, (int, float)) for n, v in row.items() if n.endswith(_NUMBERS)
        )
        shares = row.get("preferences", {}) if numbers else {}
        numbers = numbers and isinstance(shares, dict) and all(isinstance(v, (int, float)) for v in shares.values())
        if not numbers or not row.keys() >= _NEEDED or not _MODEL.fullmatch(path.stem.removeprefix("alpaca_")):
            raise DataError(path, "not a row of AlpacaEval", "what `nemo-srlm alpaca --run` writes")
        rows[path.stem.removeprefix("alpaca_")] = row
    return rows


def is_whole(row: dict[str, Any]) -> bool:
    """Whether the annotations are of the whole evaluation set; rows that an older version stored do not say."""
    missing = row.get("n_missing", 0)
    return bool(row["n_total"] + missing >= row.get("n_set", row["n_total"] + missing))


def of_set(row: dict[str, Any]) -> str:
    """How many instructions have a preference, `400 of 805` where they are not all of the evaluation set."""
    size = row.get("n_set", row["n_total"])  # rows that an older version stored do not say
    return f"{row['n_total']:,}" if row["n_total"] == size else f"{row['n_total']:,} of {size:,}"


def as_text(row: dict[str, Any]) -> str:
    """The row as lines for the terminal."""
    part = not is_whole(row)
    lines = [
        f"{row['generator']}: {of_set(row)} instructions, {row['avg_length']} characters on average"
        + (f", {row['n_missing']} without a preference" if row["n_missing"] else ""),
        *(
            ["  a part of the evaluation set: these rates are of this part, and are none of the leaderboard’s"]
            if part
            else []
        ),
        f"  win rate                    {row['win_rate']:6.2f} ± {row['standard_error']:.2f}",
        f"  discrete win rate           {row['discrete_win_rate']:6.2f}"
        f"   ({row['n_wins']} wins, {row['n_draws']} draws, {row['n_wins_base']} losses)",
    ]
    if "length_controlled_winrate" in row:
        rows, close, largest = ACCURACY
        lines.append(
            f"  length-controlled win rate  {row['length_controlled_winrate']:6.2f} ± {row['lc_standard_error']:.2f}"
            f"   (against {rows} rows of the leaderboard {close} were within 0.02, the largest difference was {largest})"
        )
        if "length_controlled_winrate_other_folds" in row:  # not in rows that an older version stored
            other = row["length_controlled_winrate_other_folds"]
            lines.append(f"     with the folds of a machine whose numpy sorts otherwise: {other:.2f}")
    elif part:
        lines.append("  length-controlled win rate     (needs the annotations of all instructions, and --calibration)")
    else:
        lines.append(
            "  length-controlled win rate     (needs --calibration: df_gamed.csv, or the output of tools/alpaca_calibration.py)"
        )
    return "\n".join(lines)
