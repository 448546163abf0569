"""`status`: whether the process that wrote a stage's progress still runs, though its id may be another process's by now."""

import os
import subprocess
import sys
import time
from typing import Any

import pytest

from nemo_srlm.core.process_tree import started
from nemo_srlm.report.status import QUIET, _alive

DAY = 86_400.0


def progress(pid: int, began: float, updated: float, host: str = "") -> dict[str, Any]:
    return {"pid": pid, "host": host or os.uname().nodename, "started": began, "updated": updated}


def test_a_process_began_when_it_began():
    before = time.time()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert before - 2 <= started(child.pid) <= time.time() + 2
        assert child.stdin is not None
        child.stdin.write(b"\n")
    with pytest.raises(OSError, match="No such"):
        started(child.pid)


def test_an_id_that_another_process_has_now_is_not_taken_for_the_worker():
    """After a reboot a stage stayed `running` for as long as anything had the id of its worker."""
    now = time.time()
    assert not _alive(progress(os.getpid(), now - 2 * DAY, now - DAY))


def test_the_worker_itself_is_alive_however_long_it_says_nothing():
    now = time.time()
    assert _alive(progress(os.getpid(), started(os.getpid()) + 0.5, now - 100 * QUIET))
    assert _alive(progress(1, now, now - 100 * QUIET)), "of another user"


def test_a_worker_that_proc_hides_is_known_by_its_progress(monkeypatch: pytest.MonkeyPatch):
    """A login node may hide other users' processes: a colleague's run would look stopped."""

    def unseen(pid: int) -> float:
        raise FileNotFoundError(pid)

    def forbidden(pid: int, number: int) -> None:
        raise PermissionError(pid, number)

    monkeypatch.setattr("nemo_srlm.report.status.started", unseen)
    monkeypatch.setattr(os, "kill", forbidden)
    now = time.time()
    assert _alive(progress(1, now - DAY, now))
    assert not _alive(progress(1, now - DAY, now - 2 * QUIET))


def test_progress_of_this_moment_counts_where_the_clock_was_set():
    now = time.time()
    assert _alive(progress(os.getpid(), now - 2 * DAY, now))


def test_a_process_that_has_ended_and_one_elsewhere_that_is_quiet_are_not_alive():
    child = subprocess.Popen(["true"])
    child.wait()
    now = time.time()
    assert not _alive(progress(child.pid, now, now))
    assert not _alive(progress(1, now, now - 2 * QUIET, "elsewhere"))
    assert _alive(progress(1, now, now - QUIET / 2, "elsewhere"))
