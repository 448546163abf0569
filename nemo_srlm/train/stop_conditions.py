"""When a training process must save and stop before its end: a signal, a stop file, Slurm's end time, a time budget.

Every rank asks its own `StopConditions` once per step; all ranks stop when one of them has a reason. Imports no torch.
"""

import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

STARTED = "NEMO_SRLM_STARTED"  # environment variable: when `nemo-srlm run` began, seconds since the epoch


@dataclass(frozen=True)
class Limits:
    """What ends an attempt early: the existence of one of `files`, or the time `at` (seconds since the epoch)."""

    files: tuple[Path, ...] = ()
    at: float = math.inf
    why: str = ""  # what happens at `at`, for messages


NO_LIMITS = Limits()


def limits(
    environ: Mapping[str, str], now: float, budget_minutes: float, reserve: float, files: tuple[Path, ...] = ()
) -> Limits:
    """The earlier of two times: Slurm's end time less `reserve` seconds, and the job's start plus the budget.

    The job's start is the Slurm job's, else that of `nemo-srlm run`, else `now`. A budget of 0 means none.
    """
    ends = [(math.inf, "")]
    end = float(environ.get("SLURM_JOB_END_TIME", "0"))
    if end > 0:
        ends.append((end - reserve, "the allocation ends"))
    if budget_minutes > 0:
        start = float(environ.get("SLURM_JOB_START_TIME") or environ.get(STARTED) or now)
        ends.append((start + 60.0 * budget_minutes, f"the time budget of {budget_minutes:g} minutes is over"))
    at, why = min(ends)
    return Limits(files, at, why)


class StopConditions:
    """Notes SIGTERM and SIGUSR1 instead of ending the process, and checks the limits, inside of its `with` block."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.time) -> None:
        self._limits, self._clock = limits, clock
        self._signal = ""

    def __enter__(self) -> Self:
        self._old = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGUSR1)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self._signal = signal.Signals(number).name

    def reason(self, step_seconds: float = 0.0) -> str:
        """Why to stop now, "" to go on. `step_seconds`: the longest time that another step may take."""
        if self._signal:
            return self._signal
        for path in self._limits.files:
            if path.exists():
                return f"{path} exists"
        return self._limits.why if self._clock() + step_seconds >= self._limits.at else ""
