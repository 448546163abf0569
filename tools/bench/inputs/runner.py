"""Runs cases in forked processes, each in a directory of its own and under limits, and says what came of them."""

import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.bench.inputs.case import ACCEPTED, ANSWERED, COUNTED, REFUSED, Case

SECONDS = 20  # of computing, for one case
PATIENCE = 10  # times as long by the clock: on a busy machine a case waits for its turn
MEMORY = 4 * 2**30  # bytes that a case may take beside what its parent has
LONGEST_MESSAGE = 4_000  # characters
OUTPUT = "output.txt"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_MESSAGE = re.compile(r"error: \S.*", re.DOTALL)


@dataclass(frozen=True)
class Outcome:
    """What came of a case. `fault`: traceback | silent | code | hang | message, or "" where it ended as it should."""

    case: Case
    code: int
    fault: str
    words: str  # the last lines of its output


@dataclass(frozen=True)
class _Running:
    case: Case
    folder: Path
    began: float


def fault_of(case: Case, code: int, output: str) -> str:
    """What is wrong with the end of a case; "" for nothing. A code below 0 is a signal's."""
    if code in (-signal.SIGKILL, -signal.SIGXCPU):
        return "hang"
    if "Traceback (most recent call last)" in output or "This is a fault of nemo-srlm" in output or code < 0:
        return "traceback"
    if case.expect == ACCEPTED:
        return "" if code == 0 else "code"
    if code == 0:
        return "silent" if case.expect == REFUSED and COUNTED not in output else ""
    if code != 2:
        return "code"
    assert case.expect in (REFUSED, ANSWERED)
    told = _MESSAGE.search(output)
    return "" if told and len(told[0]) <= LONGEST_MESSAGE and not _CONTROL.search(told[0]) else "message"


def _child(case: Case, folder: Path) -> None:
    """The forked process: never returns."""
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        output = os.open(folder.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = case.run()
    except SystemExit as error:  # argparse
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _finished(running: dict[int, _Running]) -> Iterator[tuple[int, int]]:
    """(process, its exit code or minus its signal) of those that have ended; ends those that take too long."""
    for pid, one in running.items():
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended and time.monotonic() - one.began > SECONDS * PATIENCE:
            os.killpg(pid, signal.SIGKILL)
            ended, status = os.waitpid(pid, 0)
        if ended:
            yield pid, os.waitstatus_to_exitcode(status)


def run(cases: Sequence[Case], place: Path, jobs: int, report: Callable[[Outcome], None]) -> None:
    """Every case once, `jobs` at the same time; `report` gets each outcome as it comes."""
    running: dict[int, _Running] = {}
    todo = list(enumerate(cases))[::-1]
    while todo or running:
        while todo and len(running) < jobs:
            number, case = todo.pop()
            folder = place / f"{number:05d}"
            folder.mkdir(parents=True)
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                _child(case, folder)
            running[pid] = _Running(case, folder, time.monotonic())
        for pid, code in list(_finished(running)):
            one = running.pop(pid)
            report(_outcome(one, code))
        time.sleep(0.002)


def _outcome(one: _Running, code: int) -> Outcome:
    path = one.folder.with_suffix(".txt")
    output = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    path.unlink(missing_ok=True)
    shutil.rmtree(one.folder, ignore_errors=True)
    words = " | ".join(line.strip() for line in output.strip().splitlines()[-3:])
    return Outcome(one.case, code, fault_of(one.case, code, output), words[-400:])
