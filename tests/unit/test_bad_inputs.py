"""A reduced campaign of bad inputs (tools/bench/bad_inputs.py), and that the campaign sees each kind of fault."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.bench.inputs import runner
from tools.bench.inputs.argued import ARGUED
from tools.bench.inputs.case import ACCEPTED, REFUSED, Case

ROOT = Path(__file__).resolve().parents[2]


def test_300_bad_inputs_of_all_kinds_are_refused_or_counted():
    command = [sys.executable, "tools/bench/bad_inputs.py", "--sample", "300"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _raises() -> int:
    raise RuntimeError("a fault")


def _prints() -> int:
    print("error: x: wrong", file=sys.stderr)
    return 2


@pytest.mark.parametrize(
    ("case", "fault"),
    [
        (Case("g", "good", lambda: 0, ACCEPTED), ""),
        (Case("g", "refused", _prints), ""),
        (Case("g", "refused, and should not be", _prints, ACCEPTED), "code"),
        (Case("g", "taken", lambda: 0), "silent"),
        (Case("g", "another code", lambda: 1), "code"),
        (Case("g", "no message", lambda: 2), "message"),
        (Case("g", "raises", _raises), "traceback"),
        (Case("g", "never ends", lambda: time.sleep(60) or 0), "hang"),
    ],
)
def test_every_fault_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case, fault: str):
    monkeypatch.setattr(runner, "SECONDS", 2)
    monkeypatch.setattr(runner, "PATIENCE", 1)
    found: list[runner.Outcome] = []
    runner.run([case], tmp_path / "x", 1, found.append)
    assert [outcome.fault for outcome in found] == [fault]


def test_an_argued_acceptance_has_its_reason():
    for _, _, reason in ARGUED:
        assert len(reason.split()) >= 5
    assert REFUSED != ACCEPTED
