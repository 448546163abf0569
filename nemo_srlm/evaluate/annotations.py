"""`nemo-srlm alpaca`: the leaderboard's row of a model from alpaca_eval's annotations, and into a run's report."""

import re
from pathlib import Path
from typing import Any

from nemo_srlm.core.files import content_digest, read_json, write_json
from nemo_srlm.errors import ConfigError, DataError

FOLDER = "annotations"  # in the run directory: what came from outside, beside the stages and not among them
_MODEL = re.compile(r"M\d+|baseline")


def row(path: Path, calibration: Path | None) -> dict[str, Any]:
    """win_rate, standard_error, discrete_win_rate, ... in percent; with a calibration also the length-controlled ones."""
    from nemo_srlm.evaluate.alpaca import Calibration, read_annotations, summary

    found = summary(read_annotations(path), Calibration.read(calibration) if calibration else None)
    return {**found, "file": str(path), "digest": content_digest(path)[:16]}


def keep(run_dir: Path, model: str, found: dict[str, Any]) -> Path:
    """Notes a row for the report of `run_dir`. Raises ConfigError for what is no run or no model of one."""
    if not (run_dir / "config.yaml").is_file():
        raise ConfigError("--run", f"{run_dir} has no config.yaml", "the directory of a run")
    if not _MODEL.fullmatch(model):
        raise ConfigError("--model", repr(model), "baseline, M1, M2, ...: whose answers were judged")
    path = run_dir / FOLDER / f"alpaca_{model}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, found)
    return path


def of_run(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Model -> its row, of all that `keep` has noted. Raises DataError for a file that is none."""
    rows = {}
    for path in sorted((run_dir / FOLDER).glob("alpaca_*.json")):
        found = read_json(path)
        if not isinstance(found, dict) or "win_rate" not in found:
            raise DataError(path, "not a row of AlpacaEval", "what `nemo-srlm alpaca --run` writes")
        rows[path.stem.removeprefix("alpaca_")] = found
    return rows


def text(found: dict[str, Any]) -> str:
    """The row for reading."""
    lines = [
        f"{found['generator']}: {found['n_total']} instructions, {found['avg_length']} characters on average"
        + (f", {found['n_missing']} without a preference" if found["n_missing"] else ""),
        f"  win rate                    {found['win_rate']:6.2f} ± {found['standard_error']:.2f}",
        f"  discrete win rate           {found['discrete_win_rate']:6.2f}"
        f"   ({found['n_wins']} wins, {found['n_draws']} draws, {found['n_wins_base']} losses)",
    ]
    if "length_controlled_winrate" in found:
        lines.append(
            f"  length-controlled win rate  {found['length_controlled_winrate']:6.2f} ± {found['lc_standard_error']:.2f}"
        )
    else:
        lines.append(
            "  length-controlled win rate     (needs --calibration: df_gamed.csv, or what tools/alpaca_calibration.py makes)"
        )
    return "\n".join(lines)
