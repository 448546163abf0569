"""The report of runs: report.html with report.md and report.json beside it, and the table of the terminal."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from rich.table import Table

from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.core.stage import check_outside_stages
from nemo_srlm.errors import UserError
from nemo_srlm.report import cards, compare, mt_bench_files, render, text, units
from nemo_srlm.report.collect import of_run
from nemo_srlm.report.run_files import RunFiles


def read_runs(run_dirs: list[Path]) -> list[dict[str, Any]]:
    """The data of every run, each with a unique "label": the run's name, or its path where names are equal."""
    files = [RunFiles(run_dir) for run_dir in run_dirs]
    measured = [units.read(each) for each in files]
    runs = [of_run(each, found) for each, found in zip(files, measured, strict=True)]
    names = Counter(run["name"] for run in runs)
    for run in runs:
        run["label"] = run["name"] if names[run["name"]] == 1 else run["path"]
    runs[0]["between"] = compare.between(runs, measured)
    runs[0]["over_seeds"] = compare.over_seeds(runs)
    return runs


def write_report(run_dirs: list[Path], out: Path) -> Path:
    """Writes `out` (HTML) and, beside it, the same stem with .md and .json. Accepts unfinished runs.

    Raises ConfigError when a directory is not a run's, UserError when `out` is a directory, no .html file, or lies
    in the directory of a stage.
    """
    if out.is_dir():
        raise UserError("--out", f"{out} is a directory", "the name of a file", f"--out {out / 'report.html'}")
    if out.suffix != ".html":  # .md and .json lie beside it
        raise UserError(
            "--out", f"{out} has another suffix", "the name of an .html file", f"--out {out.with_suffix('.html')}"
        )
    check_outside_stages(out)
    runs = read_runs(run_dirs)
    found = write_runs(runs, out)
    for run_dir, run in zip(run_dirs, runs, strict=True):
        files = RunFiles(run_dir)
        mt_bench_files.write(files)
        cards.refresh(files, run)
    return found


def write_runs(runs: list[dict[str, Any]], out: Path) -> Path:
    """`write_report` of runs that are read already."""
    out.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps({"version": 3, "runs": runs}, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(out.with_suffix(".json"), data + "\n")
    write_atomic(out.with_suffix(".md"), text.markdown(runs))
    write_atomic(out, render.html(runs))
    return out


def terminal_table(run_dir: Path) -> Table:
    """The table that `nemo-srlm run` prints at the end: a row per model."""
    return text.table(read_runs([run_dir])[0])
