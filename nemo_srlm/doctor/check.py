"""What a check is and what it finds, and how one is run: in a process of its own with a time limit, so a hang is a finding."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from nemo_srlm.core import process
from nemo_srlm.core.files import read_json, write_json
from nemo_srlm.core.process_tree import kill
from nemo_srlm.doctor.inventory import Machine

WORKER = "nemo_srlm.doctor.worker"
POLL = 0.1  # seconds between two looks at a check's process
Figures = dict[str, float | str]


class Failed(Exception):
    """A check that applies here and does not hold; the message says what was found."""


@dataclass(frozen=True)
class Place:
    """Where a check works, and on what."""

    directory: Path
    machine: Machine
    steps: int  # of each training


@dataclass(frozen=True)
class Check:
    """One row of the table. `function` raises Failed, or returns figures.

    `absent` says why the check does not apply to a machine ("": it applies). `after`: checks whose files it reads.
    """

    name: str
    what: str
    function: Callable[[Place], Figures]
    limit: float  # seconds
    absent: Callable[[Machine], str] = lambda machine: ""
    after: tuple[str, ...] = ()
    quick: bool = True  # belongs to `--quick`


@dataclass(frozen=True)
class Result:
    """What a check found. `reason`: why it failed, or why it does not apply."""

    name: str
    what: str
    status: Literal["ok", "failed", "not here"]
    reason: str = ""
    seconds: float = 0.0
    figures: Figures = field(default_factory=dict)
    log: str = ""


def run_check(check: Check, place: Place) -> Result:
    """Runs a check that applies here, in a process of its own."""
    log, answer = place.directory / f"{check.name}.log", place.directory / f"{check.name}.json"
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-m", WORKER, check.name, str(place.directory), str(place.steps)]
    began = time.monotonic()
    reason = run_process(command, log, check.limit)
    seconds = round(time.monotonic() - began, 1)
    if answer.exists():
        found = read_json(answer)
        return Result(check.name, check.what, found["status"], found["reason"], seconds, found["figures"], str(log))
    return Result(check.name, check.what, "failed", reason or process.tail(log), seconds, {}, str(log))


def run_process(command: Sequence[str], log: Path, limit: float) -> str:
    """Runs a command to its end, or kills it and all below it after `limit` seconds. Returns what went wrong, "" if nothing."""
    child = process.start(command, log, {})
    until = time.monotonic() + limit
    while child.poll() is None:
        if time.monotonic() > until:
            kill(child)
            return f"did not end within {limit:.0f} s; the end of its log:\n{process.tail(log)}"
        time.sleep(POLL)
    return f"exit code {child.returncode}; the end of its log:\n{process.tail(log)}" if child.returncode else ""


def write_answer(path: Path, status: str, reason: str, figures: Figures) -> None:
    """Called by the check's process at its end."""
    write_json(path, {"status": status, "reason": reason, "figures": figures})


def results_json(inventory: Mapping[str, str], results: Sequence[Result], version: str, unused: int) -> str:
    """The file of `--json`. `unused`: GPUs that torch does not use, which no check looked at."""
    return json.dumps({
        "version": version, "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "inventory": dict(inventory),
        "checks": [asdict(result) for result in results], "fit": not any(r.status == "failed" for r in results),
        "gpus_not_checked": unused,
    }, indent=1)  # fmt: skip
