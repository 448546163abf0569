"""`nemo-srlm doctor`: the inventory, the checks with their progress, the table, the JSON file, the exit code."""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nemo_srlm import __version__
from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.core.terminal import console, say
from nemo_srlm.doctor.check import Check, Place, Result, results_json, run_check
from nemo_srlm.doctor.inventory import inventory, machine
from nemo_srlm.doctor.table import CHECKS
from nemo_srlm.errors import UserError
from nemo_srlm.report.display import duration

STEPS, QUICK_STEPS = 20, 5
MARK = ".doctor"  # in a directory that the doctor made and may empty
COLORS = {"ok": "green", "failed": "bold red", "not here": "dim"}


def doctor(directory: Path, quick: bool, json_file: Path | None) -> int:
    """Runs every check in `directory` (emptied first, removed when nothing failed). Returns the exit code.

    Raises UserError for a directory that is not the doctor's own, and for a JSON file that could not be kept.
    """
    check_arguments(directory, json_file)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / MARK).touch()
    screen, found = console(), inventory(directory)
    screen.print(inventory_table(found))
    place = Place(directory.resolve(), machine(), QUICK_STEPS if quick else STEPS)
    results = run_all(CHECKS, place, quick, screen)
    screen.print(results_table(results))
    if unused := place.machine.unused:
        say(
            f"the {unused} GPUs of this machine were NOT checked: the installed torch is a build for CPUs and uses none. "
            "To check them: `make venv-gpu`, then `make doctor`",
            error=True,
        )
    failed = [result for result in results if result.status == "failed"]
    if json_file is not None:
        write_atomic(json_file, results_json(found, results, __version__, place.machine.unused) + "\n")
    if failed:
        say(f"{len(failed)} of {len(results)} checks failed; their logs are in {directory}", error=True)
    else:
        shutil.rmtree(directory)
    return 1 if failed else 0


def check_arguments(directory: Path, json_file: Path | None) -> None:
    """Raises UserError unless nothing of the user's is lost, and the answer, minutes later, can be written."""
    if directory.exists() and not (
        directory.is_dir() and ((directory / MARK).exists() or not any(directory.iterdir()))
    ):
        raise UserError(
            "--dir", f"{directory} holds other files", "a new directory, or one of an earlier doctor: it is emptied",
            "name another directory, such as a new one below it",
        )  # fmt: skip
    if json_file is None:
        return
    if json_file.resolve().is_relative_to(directory.resolve()):
        raise UserError("--json", f"{json_file} is inside {directory}", "a file elsewhere: the directory is removed")
    if json_file.is_dir() or not os.access(json_file.resolve().parent, os.W_OK):
        raise UserError("--json", f"{json_file} cannot be written", "a file in a directory that is there and writable")


def run_all(checks: Sequence[Check], place: Place, quick: bool, screen: Console) -> list[Result]:
    """Runs the checks that apply, one after another; prints a line before and after each."""
    results: dict[str, Result] = {}
    began = time.monotonic()
    for number, check in enumerate(checks, 1):
        reason = not_here(check, place, quick, results)
        if reason:
            results[check.name] = Result(check.name, check.what, "not here", reason)
            continue
        screen.print(
            f"[{number}/{len(checks)}] {check.name}: {check.what} (at most {duration(check.limit)})", markup=False
        )
        results[check.name] = result = run_check(check, place)
        words = result.reason.splitlines()[0] if result.reason else figures_text(result)
        screen.print(f"    {result.status} in {duration(result.seconds)}  {words}", markup=False)
    screen.print(f"took {duration(time.monotonic() - began)}")
    return list(results.values())


def not_here(check: Check, place: Place, quick: bool, results: dict[str, Result]) -> str:
    """Why a check is not run; "" if it is."""
    if quick and not check.quick:
        return "left out by --quick"
    if absent := check.absent(place.machine):
        return absent
    missing = [name for name in check.after if results[name].status != "ok"]
    return f"needs {', '.join(missing)}, which did not pass" if missing else ""


def figures_text(result: Result) -> str:
    return ", ".join(f"{name} {value}" for name, value in result.figures.items())


def inventory_table(found: dict[str, str]) -> Table:
    table = Table("", "here", title="What is here")
    for name, value in found.items():
        table.add_row(name, value or "[dim]not here[/dim]")
    return table


def results_table(results: Sequence[Result]) -> Table:
    table = Table("check", "", "result", "time", "figures, or the reason", title="Checks")
    for result in results:
        color = COLORS[result.status]
        seconds = duration(result.seconds) if result.status != "not here" else ""
        table.add_row(
            result.name, result.what, f"[{color}]{result.status}[/{color}]", seconds,
            result.reason.replace("[", r"\[") or figures_text(result),
        )  # fmt: skip
    return table
