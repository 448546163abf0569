"""When a training process must save and stop: signals, stop files, Slurm's end time, a time budget."""

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_srlm.train.stop_conditions import STARTED, Limits, StopConditions, limits

NOW = 1_000_000.0


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    assert {s: signal.getsignal(s) for s in before} == before, "a test did not restore the signal handlers"


def test_without_limits_there_is_no_end():
    assert limits({}, NOW, 0.0, 300.0) == Limits((), math.inf, "")


def test_slurms_end_leaves_time_to_save():
    assert limits({"SLURM_JOB_END_TIME": "1003600"}, NOW, 0.0, 300.0).at == 1_003_300


@pytest.mark.parametrize(
    ("environ", "at"),
    [({"SLURM_JOB_START_TIME": "999000", STARTED: "999900"}, 1_002_600), ({STARTED: "999900.5"}, 1_003_500.5), ({}, 1_003_600)],
)  # fmt: skip
def test_a_budget_counts_from_the_jobs_start(environ: dict[str, str], at: float):
    assert limits(environ, NOW, 60.0, 300.0).at == at


def test_the_earlier_end_wins_and_is_named():
    environ = {"SLURM_JOB_END_TIME": "1001000", "SLURM_JOB_START_TIME": "1000000"}
    assert "allocation" in limits(environ, NOW, 60.0, 300.0).why
    assert "budget of 10 minutes" in limits(environ, NOW, 10.0, 300.0).why


def test_a_step_that_would_not_end_in_time_is_not_begun():
    time = [NOW]
    with StopConditions(Limits((), NOW + 100.0, "the allocation ends"), lambda: time[0]) as conditions:
        assert conditions.reason(step_seconds=60.0) == ""
        time[0] += 50.0
        assert conditions.reason(step_seconds=60.0) == "the allocation ends"
        assert conditions.reason(step_seconds=10.0) == ""


def test_a_stop_file_is_a_reason(tmp_path: Path):
    with StopConditions(Limits((tmp_path / "iter1" / "stop", tmp_path / "stop"))) as conditions:
        assert conditions.reason() == ""
        (tmp_path / "stop").touch()
        assert conditions.reason() == f"{tmp_path / 'stop'} exists"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_remembered_and_does_not_kill(number: signal.Signals):
    with StopConditions(Limits()) as conditions:
        os.kill(os.getpid(), number)
        assert conditions.reason() == number.name
