"""Each kind of failure on a cluster once: the finished run has the same records, or it stops with the right reason."""

import shutil

import pytest

from tests.slurm.conftest import PATH, STEPS, Run


def test_a_shard_that_crashes_once_is_tried_again_and_nothing_is_lost(run: Run):
    run.env |= {"TOY_CRASH": "square:1", "TOY_TIMES": "1", "TOY_STAGES": "3"}
    run.submit()
    run.wait()
    run.assert_whole()
    assert [e for e in run.ends("iter1-square") if e in ("crashed", "failed")] == ["crashed"]


def test_a_shard_that_always_crashes_fails_its_stage_and_cancels_what_depends_on_it(run: Run):
    run.env |= {"TOY_CRASH": "square:1"}
    run.submit("cluster.max_replans=3")
    found = run.wait()
    assert found["iter1/square"]["state"] == "failed"
    assert "killed by SIGKILL" in found["iter1/square"]["words"]
    assert "slurm/iter1-square/log-" in found["iter1/square"]["words"]
    for ref in ("iter1/pick", "iter1/tune", "iter1/check"):
        assert found[ref]["state"] == "cancelled"
        assert "because iter1/square failed" in found[ref]["words"]
    assert "stopped: iter1-square shard 1: crashed" in found["notes"][0]  # the supervisor does not repeat a failure
    # after the cause is fixed, only what is missing is submitted
    del run.env["TOY_CRASH"]
    assert "array 1 " in run.cli("plan", *run.words())
    run.submit()
    run.wait()
    run.assert_whole()
    assert len((run.dir / "slurm/iter1-square/attempts-0.tsv").read_text().splitlines()) == 2  # shard 0 ran once


def test_a_hang_ends_the_attempt_with_the_stacks_in_the_log(run: Run):
    run.env |= {"TOY_HANG": "grow", "TOY_TIMES": "1", "TOY_STAGES": "2", "TOY_STEP": "0.7"}
    run.submit("cluster.hang.work=5", "cluster.retries=50", "parallel.nodes=1")  # a busy machine may look hung, too
    run.wait()
    run.assert_whole()
    assert "hung" in run.ends("iter0-grow")
    log = next((run.dir / "slurm/iter0-grow").glob("log-*.txt")).read_text()
    assert "no progress for" in log
    assert "in hang_here" in log


def test_a_time_limit_saves_requeues_and_resumes_as_often_as_allowed(run: Run):
    """Trainings that wait in their middle, where steps are saved, get a limit that is as near as their warning."""
    run.env |= {"TOY_HOLD": "grow", "TOY_STAGES": "3"}
    capped, refused = (Run(run.cluster, run.root, name, run.env) for name in ("capped", "refused"))
    run.submit("cluster.warning=3000", "parallel.nodes=1")
    capped.submit("cluster.warning=3000", "parallel.nodes=1", "cluster.max_restarts=0")
    refused.submit("cluster.warning=3000", "parallel.nodes=1", "cluster.flags=[--no-requeue]")
    for one in (run, capped, refused):
        one.held("iter0/grow")
        one.limit("iter0/grow", 30)
    found = capped.wait()
    assert found["iter0/grow"]["state"] == "failed"
    assert "cluster.max_restarts" in found["iter0/grow"]["words"]
    assert 0 < capped.steps("iter0/grow") < STEPS  # it saved before it stopped
    assert found["iter1/square"]["state"] == "cancelled"
    found = refused.wait()  # at once: no node is held for a requeue that the site refuses
    assert "saved, but Slurm did not requeue the job" in found["iter0/grow"]["words"]
    run.until(lambda: "limit" in run.ends("iter0-grow"))
    run.limit("iter0/grow", 600)
    run.wait()
    run.assert_whole()


LATE = """#!/bin/bash
# answers to a first requeue late, and is then too late to change the queued job
if [ "${{SLURM_RESTART_COUNT:-0}} $1" = "0 update" ]; then exit 0; fi
{scontrol} "$@"
code=$?
if [ "${{SLURM_RESTART_COUNT:-0}} $1" = "0 requeue" ]; then sleep 8; fi
exit $code
"""


@pytest.mark.parametrize("words", [["cluster.warning=3000"], ["cluster.retries=0", "cluster.other_nodes=1"]])
def test_the_signal_of_a_requeue_that_comes_before_its_answer_is_no_refusal(run: Run, words: list[str]):
    """On a busy machine scontrol still waits for its answer when Slurm ends the job's processes, and even when the job is
    started again, before it has been told which node to leave out."""
    moved = "cluster.retries=0" in words
    tool = run.root / "bin/scontrol"
    tool.parent.mkdir()
    tool.write_text(LATE.format(scontrol=shutil.which("scontrol", path=PATH)))
    tool.chmod(0o755)
    run.env |= {"TOY_BROKEN" if moved else "TOY_HOLD": "grow", "TOY_STAGES": "2", "PATH": f"{tool.parent}:{PATH}"}
    run.submit("parallel.nodes=1", *words)
    if not moved:
        run.held("iter0/grow")
        run.limit("iter0/grow", 30)
        run.until(lambda: "limit" in run.ends("iter0-grow"))
        run.limit("iter0/grow", 600)
    run.wait()
    run.assert_whole()
    attempts = run.attempts("iter0-grow")
    if moved and attempts[3][2] == attempts[0][2]:  # Slurm may also take the other node by itself
        assert attempts.pop(3)[3:] == ["again", f"back on {attempts[0][2]}: requeued"]
    ends = ["start", "crashed", "moved"] if moved else ["start", "limit"]
    assert [a[3] for a in attempts] == [*ends, "start", "done"]
    assert not moved or attempts[0][2] != attempts[-1][2]


@pytest.mark.parametrize("ref", ["iter0/grow", "iter1/square"])
def test_preemption_saves_and_resumes(run: Run, ref: str):
    training = ref == "iter0/grow"
    run.env |= {"TOY_HOLD": ref.partition("/")[2], "TOY_STAGES": "2" if training else "3"}
    run.submit("cluster.partition=low", "parallel.nodes=1")
    run.held(ref, 1 if training else 3)
    urgent = ["--partition=main", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "true"]
    name = run.cluster.tool("sbatch", "--parsable", *urgent).strip()
    run.until(lambda: name not in [job[0] for job in run.cluster.jobs()])
    run.wait()
    run.assert_whole()
    starts = [end for end in run.ends(ref.replace("/", "-")) if end == "start"]
    assert len(starts) > (1 if training else 3)
    if training:
        log = next((run.dir / "slurm/iter0-grow").glob("log-*.txt")).read_text()
        assert "rank 0 leaves at" in log  # it saved; it was not killed


def test_requeueing_one_element_of_an_array_leaves_the_others_alone(run: Run):
    run.env |= {"TOY_HOLD": "square", "TOY_STAGES": "3"}
    run.submit("parallel.nodes=1")
    run.held("iter1/square", 3)
    last = next(job[0] for job in run.jobs() if job[1] == "RUNNING" and job[0].endswith("_2"))
    run.cluster.tool("scontrol", "requeue", last)
    run.let_go("iter1/square")
    run.wait()
    run.assert_whole()
    starts = [a[1].rpartition(".")[0].rpartition("_")[2] for a in run.attempts("iter1-square") if a[3] == "start"]
    assert sorted(starts) == ["0", "1", "2", "2"]


def test_an_engine_that_fails_on_one_node_is_tried_again_and_then_on_another(run: Run):
    run.env |= {"TOY_BROKEN": "grow", "TOY_STAGES": "2"}
    run.submit("parallel.nodes=1", "cluster.retries=1", "cluster.other_nodes=1")
    run.until(lambda: "moved" in run.ends("iter0-grow"))
    before = run.status()["iter0/grow"]["words"]
    run.wait()
    run.assert_whole()
    # where the machine is busy, the job may start before it is told to leave the node out, and goes at once
    attempts = [a for a in run.attempts("iter0-grow") if not a[4].startswith("back on ")]
    assert [a[3] for a in attempts] == ["start", "crashed", "start", "crashed", "moved", "start", "done"]
    first, last = attempts[0][2], attempts[-1][2]
    assert first != last
    assert f"crashed on {first} (model: vLLM does not start: CUDA error" in before
    assert f"moved away from {first}" in before


def test_a_preempted_job_that_the_site_cancels_is_submitted_again_and_one_that_a_person_cancels_is_not(run: Run):
    run.env |= {"TOY_HOLD": "grow", "TOY_STAGES": "2"}
    run.submit("cluster.partition=scrap", "parallel.nodes=1", "cluster.max_replans=1")
    run.held("iter0/grow")
    run.cluster.tool(
        "sbatch", "--wait", "--partition=main", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "true"
    )
    run.wait()
    run.assert_whole()
    assert "submitted" in run.status()["notes"][0]
    other = Run(run.cluster, run.root, "other", run.env)
    other.submit("parallel.nodes=1", "cluster.max_replans=1")
    other.held("iter0/grow")
    run.cluster.tool("scancel", "--full", next(job[0] for job in other.jobs() if " iter0/grow " in job[4]))
    found = other.wait()
    assert found["iter0/grow"]["words"] == "by a person (scancel)"
    assert "stopped: cancelled by a person (scancel): iter0-grow" in found["notes"][0]
