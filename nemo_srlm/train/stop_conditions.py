"""When a training process must save and leave before its end: a signal, a stop file, Slurm's end time, a time budget.

Every rank asks its own `StopConditions` once a step; the trainer leaves when any rank has a reason. Imports no torch.
"""

import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

STARTED = "NEMO_SRLM_STARTED"  # environment: when `nemo-srlm run` began, seconds since the epoch


@dataclass(frozen=True)
class Limits:
    """What ends an attempt early: files that ask for it, and the time at which to save (seconds since the epoch)."""

    files: tuple[Path, ...] = ()
    at: float = math.inf
    why: str = ""  # what `at` is


NO_LIMITS = Limits()


def limits(
    environ: Mapping[str, str], now: float, budget_minutes: float, reserve: float, files: tuple[Path, ...] = ()
) -> Limits:
    """The earlier of Slurm's end time less `reserve` seconds and the budget, which counts from the job's start.

    The job's start is Slurm's, else that of `nemo-srlm run`, else now. A budget of 0 is none.
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
    """Remembers SIGTERM and SIGUSR1 instead of dying, and knows the other reasons. `restore` gives the signals back."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.time) -> None:
        self._limits, self._clock = limits, clock
        self._signal = ""
        self._old = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGUSR1)}

    def _note(self, number: int, _: object) -> None:
        self._signal = signal.Signals(number).name

    def reason(self, step_seconds: float = 0.0) -> str:
        """Why to save now; "" to go on. `step_seconds`: how long another step would take at most."""
        if self._signal:
            return self._signal
        for path in self._limits.files:
            if path.exists():
                return f"{path} exists"
        return self._limits.why if self._clock() + step_seconds >= self._limits.at else ""

    def restore(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
