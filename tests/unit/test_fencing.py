"""An attempt that lives on after Slurm has lost its node writes nothing once the next attempt has begun. Needs no Slurm."""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_srlm.config.schema import Config
from nemo_srlm.core.process_tree import alive
from nemo_srlm.launch.slurm import sbatch, step
from nemo_srlm.launch.slurm.lease import EXPIRES, RENEW, Lease
from tests.unit.job_script import JUDGE, started

NEVER = 10**6  # seconds: no matter how busy the machine is
CRASHES = """#!/bin/bash
echo "$NEMO_SRLM_ATTEMPT $NEMO_SRLM_PORT" >>"$EVENTS"
exit 137
"""
RUNNING = """#!/bin/bash
if [ "$1" = -o ]; then echo "JobId=8 JobState=RUNNING Reason=None Requeue=1 Restarts=0 BatchFlag=1"; else echo node1; fi
"""
STEPS = """#!/bin/bash
printf 'RUNNING\\nRUNNING\\nOUT_OF_MEMORY\\n'
"""


@pytest.fixture
def handlers() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_next_attempt_begins_when_the_older_one_has_given_up_its_lease(tmp_path: Path):
    (tmp_path / "job").mkdir()
    lease = Lease(tmp_path / "job", 0, 0, "7.0")
    lease.renew()
    script = started(tmp_path, lease=NEVER)
    assert script.stdout
    assert "waits for an older attempt" in script.stdout.readline()
    assert (tmp_path / "job/owner-0").read_text() == "8.0\n"
    with (tmp_path / "events").open("a") as events:  # its last write, at a time of its own choice
        events.write("old\n")
    lease.release()
    said, _ = script.communicate(timeout=600)
    assert script.returncode == 0, said
    assert (tmp_path / "events").read_text().split() == ["old", "new"]


def test_a_lease_that_nobody_renews_runs_out(tmp_path: Path):
    (tmp_path / "job").mkdir()
    dead = Lease(tmp_path / "job", 0, 0, "7.0")
    dead.renew()
    script = started(tmp_path, lease=1)
    said, _ = script.communicate(timeout=600)
    assert script.returncode == 0, said
    assert "its lease has run out" in said
    assert not dead.path.exists()
    assert (tmp_path / "events").read_text().split() == ["new"]


def test_an_attempt_that_is_overtaken_while_it_waits_begins_nothing(tmp_path: Path):
    (tmp_path / "job").mkdir()
    lease = Lease(tmp_path / "job", 0, 0, "7.0")
    lease.renew()
    script = started(tmp_path, lease=NEVER)
    assert script.stdout
    script.stdout.readline()
    (tmp_path / "job/owner-0").write_text("9.0\n")
    lease.release()
    said, _ = script.communicate(timeout=600)
    assert script.returncode == 5, said
    assert not (tmp_path / "events").exists()


def test_a_retry_takes_another_port_and_what_slurm_calls_out_of_memory_is_recorded_so(tmp_path: Path):
    script = started(tmp_path, srun=CRASHES, scontrol=RUNNING, sacct=STEPS)
    said, _ = script.communicate(timeout=600)
    assert script.returncode == 1, said
    attempts = [line.split() for line in (tmp_path / "events").read_text().splitlines()]
    assert [name for name, _ in attempts][:2] == ["8.0", "8.0.r1"]
    ports = [int(port) for _, port in attempts]
    assert len(set(ports[:2])) == 2
    assert all(10_000 <= port < 30_000 for port in ports)
    rows = [line.split("\t") for line in (tmp_path / "job/attempts-0.tsv").read_text().splitlines()]
    assert rows[-1][3] == "failed"
    assert rows[-1][4].startswith(
        "crashed: out of memory: Slurm says so of the step; ask for more with cluster.generate.memory"
    )


def test_each_renewal_changes_the_file_and_the_lease_outlasts_several(tmp_path: Path):
    lease = Lease(tmp_path, 3, 1, "7_3.0")
    lease.renew()
    first = lease.path.read_text()
    lease.renew()
    assert lease.path.read_text() != first
    assert lease.path.name == "lease-3-1.7_3.0"
    assert EXPIRES >= 4 * RENEW


RENEWED = """
import pathlib, sys, time
lease = pathlib.Path(sys.argv[1])
first = lease.read_text()
while lease.read_text() in ("", first): time.sleep(0.01)
"""


def test_a_lease_is_renewed_while_its_process_waits_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nemo_srlm.launch.slurm.lease.RENEW", 0.1)
    before = signal.getsignal(signal.SIGALRM)
    with Lease(tmp_path, 0, 0, "7.0") as lease:
        subprocess.run([sys.executable, "-c", RENEWED, str(lease.path)], check=True, timeout=600)
    assert not lease.path.exists()
    signal.signal(signal.SIGALRM, before)


# a worker with a process below it. Both write without end; the worker makes a later attempt the owner of the shard
WRITES = 'import sys\nwhile True:\n    with open(sys.argv[1], "a") as f: f.write("x")\n'
WORKER = f"""
import pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {WRITES!r}, sys.argv[1]])
pathlib.Path(sys.argv[1] + ".pid").write_text(str(child.pid))
pathlib.Path(sys.argv[2]).write_text("8.0")
exec({WRITES!r})
"""


def attempt_of(tmp_path: Path) -> step.Attempt:
    (tmp_path / "owner").write_text("7.0\n")
    return step.Attempt("7.0.r1", 0, 0, "node1", 1, tmp_path / "owner", tmp_path / "stop")


@pytest.mark.usefixtures("handlers")
def test_nothing_below_a_fenced_step_is_alive_when_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out, attempt = tmp_path / "out", attempt_of(tmp_path)
    words = [sys.executable, "-c", WORKER, str(out), str(attempt.owner)]
    monkeypatch.setattr(step, "command", lambda job, attempt: (words, {}))
    settings = sbatch.settings(Config(), tmp_path, JUDGE)
    assert step.WorkerSupervisor(settings, attempt).run() == step.FENCED
    assert not alive(int(Path(f"{out}.pid").read_text()))
    assert alive(os.getpid())


def test_an_attempt_that_is_lost_before_its_step_starts_begins_nothing(tmp_path: Path):
    attempt = attempt_of(tmp_path)
    attempt.owner.write_text("8.0\n")
    settings = sbatch.settings(Config(), tmp_path / "no-run", JUDGE)
    assert step.work(settings, attempt) == step.FENCED
    arguments = argparse.Namespace(job_dir=tmp_path, check=False, finish=True)
    assert step.result(arguments, settings, attempt) == step.FENCED
