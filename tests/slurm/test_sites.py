"""Sites with limits and rules of their own: few jobs, small arrays, bound CPUs, no submission from inside a job."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.conftest import Cluster, Run, started
from tests.slurm.test_environments import script

# as sites do it that allow no submission from compute nodes; the command line hides the job's variables from sbatch
FORBIDDEN = """#!/bin/bash
if tr '\\0' '\\n' <"/proc/$PPID/environ" | grep -q '^SLURM_JOB_ID='; then
    echo 'sbatch: error: jobs are submitted on login nodes only' >&2
    exit 1
fi
exec /usr/bin/sbatch "$@"
"""
# `TaskPlugin`: a step sees the CPUs that it was given, and no others
SETTINGS = {"DEV_CPUS": "2", "DEV_CONF": "TaskPlugin=task/affinity\nMaxArraySize=3"}


@pytest.fixture(scope="module")
def strict() -> Iterator[Cluster]:
    yield from started(**SETTINGS)


def test_a_run_fits_through_small_arrays_and_few_jobs_and_a_step_has_all_cpus_of_its_job(
    strict: Cluster, tmp_path: Path
):
    run = Run(strict, tmp_path, "r", {"TOY_STAGES": "3"})
    settings = ("judge.shards=5", "parallel.nodes=1", "cluster.train.exclusive=true", "cluster.max_jobs=5")
    said = run.cli("plan", *run.words((*settings, "cluster.max_replans=1")))
    assert "3 tasks in an array (MaxArraySize), 5 jobs of yours (cluster.max_jobs)" in " ".join(said.split())
    assert "Slurm accepts no more now" in run.submit(*settings, "cluster.max_replans=1")
    most = []
    run.until(lambda: most.append(len(strict.jobs())) or not run.jobs(), 400)
    run.assert_whole()
    assert max(most) <= 5
    arrays = {a[1].partition("_")[0] for a in run.attempts("iter1-square")}
    assert len(arrays) > 1
    assert {a[1] for a in run.attempts("iter1-square") if int(a[1].partition("_")[2].partition(".")[0]) > 2} == set()
    grow = next((run.dir / "slurm/iter0-grow").glob("log-*.txt")).read_text()
    assert f"has {min(2, len(os.sched_getaffinity(0)))} CPUs" in grow


def test_a_supervisor_that_may_not_submit_says_so_and_what_to_type(strict: Cluster, tmp_path: Path):
    folder = script(tmp_path / "bin/sbatch", FORBIDDEN).parent
    run = Run(strict, tmp_path, "r", {"TOY_STAGES": "2", "PATH": f"{folder}:{strict.env['PATH']}"})
    settings = ("parallel.nodes=1", "cluster.max_replans=1")
    run.submit(*settings, "cluster.max_jobs=3")
    run.until(lambda: not run.jobs())
    notes = " ".join(run.status()["notes"])
    assert "could not submit" in notes
    assert "jobs are submitted on login nodes only" in notes
    assert "go on by hand: nemo-srlm submit --config-name toy" in notes
    run.submit(*settings)
    run.wait()
    run.assert_whole()
