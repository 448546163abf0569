"""One submission runs the whole loop: job dependencies, arrays, two-node training. Repeating it is safe."""

import subprocess
import sys

from tests.slurm.conftest import REFS, ROOT, Run


def test_one_sbatch_runs_the_whole_loop_with_arrays_and_training_on_two_nodes(run: Run):
    run.env["TOY_TORCH"] = "1"  # use the real torchrun and gloo
    run.call(["sbatch", "--wait", "--output=/dev/null", str(ROOT / "slurm/iteration.sh"), *run.words()])
    run.wait()
    run.assert_whole()
    grow = next((run.dir / "slurm/iter0-grow").glob("log-*.txt")).read_text()
    assert "rank 0 of 2" in grow
    assert "rank 1 of 2" in grow
    assert f"runs {run.dir}/slurm/code/" in grow  # a copy of the code
    hosts = {a[2] for a in run.attempts("iter0-grow")}
    assert hosts == {"127.0.0.[11-12]"}
    assert len(list((run.dir / "slurm/iter1-square").glob("log-*_*.txt"))) == 3
    assert "up to date" in run.submit()
    assert run.jobs() == []
    submission = (run.dir / "slurm/submit.json").read_text()
    assert '"commit"' in submission
    assert '"environment"' in submission
    assert "squares" in run.cli("status", str(run.dir))
    assert "start on" in run.cli("logs", "iter1/square", str(run.dir))


def test_submitting_twice_at_the_same_time_submits_once(run: Run):
    run.env["TOY_HOLD"] = "grow"
    command = [str(ROOT / "slurm/iteration.sh"), *run.words()]
    env = run.cluster.env | run.env
    both = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [p.communicate(timeout=60)[0] for p in both]
    assert sum("submitted 7 jobs" in s for s in said) == 1
    assert sum("nothing to submit" in s for s in said) == 1
    assert "nothing to submit" in run.submit()
    assert "0 jobs to submit" in run.cli("plan", *run.words())
    assert {"queued", "running"} >= {run.status()[ref]["state"] for ref in REFS[2:]}
    changed = run.submit("seed.num_ift=1", code=2)  # queued jobs read the saved config
    assert "seed.num_ift: 3200 -> 1" in changed
    run.held("iter0/grow")
    run.let_go("iter0/grow")
    run.wait()
    run.assert_whole()
    assert len((run.dir / "slurm/iter1-square/attempts-0.tsv").read_text().splitlines()) == 2


def test_a_job_whose_id_was_lost_is_still_seen(run: Run):
    run.env |= {"TOY_HOLD": "grow", "TOY_STAGES": "2"}
    run.submit()
    (run.dir / "slurm/jobs.json").unlink()  # as if the submission was killed after sbatch
    assert "nothing to submit" in run.submit()
    run.held("iter0/grow")
    run.let_go("iter0/grow")


def test_a_supervisor_that_finds_all_jobs_there_leaves_one_that_waits_for_them(run: Run):
    """As when the submission was killed before its supervisor knew them."""
    run.env |= {"TOY_HOLD": "grow", "TOY_STAGES": "2"}
    run.submit("parallel.nodes=1", "cluster.max_replans=1")
    run.held("iter0/grow")
    before = next(job[0] for job in run.jobs() if " supervise " in job[4])
    run.cli("submit", "--supervise", str(run.dir))
    # Slurm says why a job waits when it has looked at the queue
    run.until(lambda: [job[1:3] for job in run.jobs() if " supervise " in job[4]] == [["PENDING", "Dependency"]])
    assert before not in [job[0] for job in run.jobs()]
    run.let_go("iter0/grow")
    run.wait()
    run.assert_whole()
    notes = run.status()["notes"]
    assert "submitted 0 jobs for 1 unfinished stages" in notes[0]
    assert "the run is done" in notes[1]


def test_a_dependency_that_slurm_forgot_is_refused_and_a_job_that_starts_too_early_says_what_is_missing(run: Run):
    """Slurm 22.05 accepts afterok with a purged job id and starts the job at once."""
    known = "from nemo_srlm.launch.slurm import client; client.require(['999999'])"
    refused = run.call([sys.executable, "-c", known], code=1)
    assert "SlurmError: job 999999: ended and was forgotten" in refused
    run.env |= {"TOY_HOLD": "grow", "TOY_STAGES": "4"}
    run.submit()
    run.held("iter0/grow")
    run.cli("cancel", str(run.dir))
    run.wait()
    early = run.dir / "slurm/iter1-pick"
    flags = ["--dependency=afterok:999999", "--kill-on-invalid-dep=yes", f"--output={early}/early.txt"]
    subprocess.run(["sbatch", "--wait", *flags, str(ROOT / "slurm/stage.sh"), str(early), "work"],
                   env=run.cluster.env | run.env, capture_output=True, check=False)  # fmt: skip  # newer versions refuse
    assert not (run.dir / "iter1/pick/manifest.json").exists()
    if (early / "early.txt").exists():
        assert "its input iter1/square is not done" in (early / "early.txt").read_text()
    assert "submitted" in run.submit()
    run.wait()
    run.assert_whole()


def test_cancel_ends_every_job_and_submitting_goes_on(run: Run):
    run.env |= {"TOY_HOLD": "grow", "TOY_STAGES": "4"}
    run.submit()
    run.held("iter0/grow")
    waiting = next(job[0] for job in run.jobs() if " iter1/pick " in job[4])
    run.cluster.tool("scontrol", "update", f"JobId={waiting}", "Comment=billed to project 7")  # as some sites do
    assert "nothing to submit" in run.submit()
    assert "cancelled" in run.cli("cancel", str(run.dir))
    assert waiting not in [job[0] for job in run.cluster.jobs()]
    found = run.wait()
    assert {found[r]["state"] for r in REFS[1:4]} == {"cancelled"}, "\n".join(map(str, found.values()))
    assert found["iter1/pick"]["words"] == "by `nemo-srlm cancel`"
    run.submit()
    run.wait()
    run.assert_whole()
