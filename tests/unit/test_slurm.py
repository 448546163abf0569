"""Slurm jobs as data, and the interpretation of Slurm's job states by status. Needs no Slurm (tests/slurm has the real one)."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_srlm.config import shipped
from nemo_srlm.config.compose import compose
from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.config.shipped import CONFIGS, SLURM, job_directory
from nemo_srlm.core.process_tree import dump
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.stage import Ref, stage_directory
from nemo_srlm.errors import UserError
from nemo_srlm.launch.launcher import SLURM as SLURM_LAUNCHER
from nemo_srlm.launch.slurm import client, jobs, sbatch, status, supervise
from nemo_srlm.launch.slurm.client import Task
from nemo_srlm.launch.slurm.hang_detector import HangDetector
from nemo_srlm.launch.slurm.jobs import Active, Job
from nemo_srlm.launch.slurm.submit import Submitted
from nemo_srlm.report.status import Row
from tests.slurm.toy import toy_pipeline

REFS = toy_pipeline.pipeline(None)
SEED, GROW, SQUARE, PICK, TUNE, CHECK = REFS


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch):
    for module in (
        "nemo_srlm.launch.slurm.jobs.load",
        "nemo_srlm.launch.slurm.sbatch.load",
        "nemo_srlm.launch.plan.load",
    ):
        monkeypatch.setattr(module, toy_pipeline.load)


def config(**cluster: object) -> Config:
    cfg = Config()
    cfg.judge.shards = 4
    for key, value in cluster.items():
        setattr(cfg.cluster, key, value)
    return cfg


def build(
    todo: list[Ref], active: tuple[Active, ...] = (), done: tuple[int, ...] = (), cfg: Config | None = None
) -> list[Job]:
    return jobs.build(cfg or config(), todo, list(active), lambda ref, n: set(done))


def test_a_fresh_run_is_one_job_per_stage_an_array_for_shards_and_a_job_that_finishes_it():
    found = {job.key: job for job in build(REFS)}
    assert list(found) == [
        "iter0-seed", "iter0-grow", "iter1-square", "iter1-square-finish", "iter1-pick", "iter1-tune", "iter1-check",
    ]  # fmt: skip
    assert found["iter1-square"].array == "0-3"
    assert found["iter1-square"].after == ("iter0-seed", "iter0-grow")
    assert found["iter1-square-finish"].after == ("iter1-square",)
    assert found["iter1-pick"].after == ("iter1-square-finish",)


def test_only_missing_shards_are_submitted_and_the_finish_waits_for_those_at_work_too():
    running = Active("work", (SQUARE,), {1: "7_1", 2: "7_2"})
    found = build(REFS[2:], (running,), done=(0,))
    assert (found[0].key, found[0].array) == ("iter1-square", "3")
    assert (found[1].after, found[1].after_ids) == (("iter1-square",), ("7_1", "7_2"))


def test_when_every_shard_is_done_only_the_finish_is_submitted():
    found = build(REFS[2:], done=(0, 1, 2, 3))
    assert [job.key for job in found][:2] == ["iter1-square-finish", "iter1-pick"]
    assert found[0].after == found[0].after_ids == ()


def test_what_is_queued_is_not_submitted_again_and_is_depended_on():
    queued = (Active("work", (SQUARE,), dict.fromkeys(range(4), "")), Active("finish", (SQUARE,), {0: "9"}))
    found = build(REFS[2:], queued)
    assert [job.key for job in found] == ["iter1-pick", "iter1-tune", "iter1-check"]
    assert found[0].after_ids == ("9",)
    every = tuple(Active("work", (ref,), {0: str(i)}) for i, ref in enumerate(REFS) if ref != SQUARE)
    assert build(REFS[2:], (*queued, *every)) == []


def test_a_job_of_several_stages_covers_those_that_it_has_not_reached():
    one = Active("work", (PICK, TUNE), {0: "5"})
    assert [job.key for job in build([TUNE, CHECK], (one,))] == ["iter1-check"]


def test_neighbours_share_a_job_where_the_site_wants_it():
    cfg = config(fuse=True)
    cfg.judge.shards = 1
    assert [len(job.refs) for job in build(REFS, cfg=cfg)] == [1, 1, 2, 1, 1]


def test_the_supervisor_waits_for_the_end_of_what_nothing_waits_for():
    found = jobs.with_supervisor(build(REFS), [])
    assert (found[-1].role, found[-1].after) == ("supervise", ("iter1-check",))


def words(cfg: Config, job: Job, *after: str) -> list[str]:
    return sbatch.arguments(cfg, Path("/runs/r"), job, list(after))


def test_a_training_job_asks_for_nodes_gpus_a_warning_and_its_dependencies():
    cfg = config(gpus_per_node=8, gpu_type="h100", account="me", exclude=["n1", "n2"], warning=600, flags=["--wckey=x"])
    cfg.parallel.nodes = 4
    found = words(cfg, build([TUNE])[0], "11", "12_3")
    for flag in (
        "--nodes=4", "--ntasks-per-node=1", "--gres=gpu:h100:8", "--account=me", "--exclude=n1,n2", "--requeue",
        "--signal=B:USR1@600", "--dependency=afterok:11:12_3", "--kill-on-invalid-dep=yes", "--wckey=x",
    ):  # fmt: skip
        assert flag in found
    assert found[-4:] == [str(SLURM / "stage.sh"), "/runs/r/slurm/iter1-tune", "work", "0"]


def test_a_generation_element_asks_for_one_engine():
    cfg = config(gpus_per_node=8, max_tasks=2)
    cfg.generate.tensor_parallel = 4
    work, finish = build([SQUARE], cfg=cfg)
    assert {"--nodes=1", "--gres=gpu:4", "--array=0-3%2"} <= set(words(cfg, work))
    assert not any(w.startswith(("--gres", "--array", "--signal")) for w in words(cfg, finish))


def test_jobs_of_an_installed_package_work_where_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In the directory that is the current one then, not when the module was imported."""
    monkeypatch.setattr(shipped, "SLURM", shipped.PACKAGE / "slurm")
    monkeypatch.chdir(tmp_path)
    assert f"--chdir={tmp_path}" in words(config(), build([SEED])[0])


def test_slurm_refuses_to_end_at_a_stage():
    with pytest.raises(UserError, match=r"--until: sft.*--launcher local"):
        SLURM_LAUNCHER.start(config(), "sft")


def test_image_mounts_modules_and_odd_characters_reach_the_script_quoted():
    cfg = config(image="/img/a b.sqsh", mounts=["/data:/data"], modules=["cuda/12.8"], setup=["export A='x y'"])
    text = sbatch.shell(cfg, Path("/runs/r"), build([SEED])[0], Path("/code"))
    script = f'{text}\nmodule() {{ echo module "$@"; }}; prepare; echo "$A"; printf \'%s\\n\' "${{CONTAINER[@]}}"'
    done = subprocess.run(["bash", "-uc", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "module load cuda/12.8", "x y", "--container-image=/img/a b.sqsh",
        f"--container-mounts=/data:/data,{job_directory()}:{job_directory()},/runs/r:/runs/r",
        "--container-workdir=/code",
    ]  # fmt: skip


def test_apptainer_stands_before_the_interpreter_and_takes_the_same_mounts():
    cfg = config(image="/img/a b.sif", mounts=["/data:/data"], container="apptainer", python="python3", gpus_per_node=8)
    cfg.cluster.generate.image, cfg.cluster.generate.python = "/img/vllm.sif", "/venv/bin/python"
    found = {}
    for job in (build([SEED])[0], build([SQUARE], cfg=cfg)[0]):
        text = sbatch.shell(cfg, Path("/runs/r"), job, Path("/code"))
        script = f'{text}\nprepare; echo "${{#CONTAINER[@]}} $PYTHONNOUSERSITE"; printf \'%s\\n\' "${{PYTHON[@]}}"'
        done = subprocess.run(["bash", "-uc", script], capture_output=True, text=True, check=True)
        found[job.kind] = done.stdout.splitlines()
    mounts = f"/data:/data,{job_directory()}:{job_directory()},/runs/r:/runs/r"
    assert found == {
        "cpu": ["0 1", "apptainer", "exec", "--bind", mounts, "/img/a b.sif", "python3"],
        "generate": ["0 1", "apptainer", "exec", "--nv", "--bind", mounts, "/img/vllm.sif", "/venv/bin/python"],
    }  # fmt: skip


@pytest.mark.parametrize("name", [p.stem for p in sorted((CONFIGS / "cluster").glob("*.yaml"))])
def test_every_cluster_profile_builds_and_changes_no_fingerprint(name: str, tmp_path: Path):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "cluster").symlink_to(CONFIGS / "cluster")
    (folder / "x.yaml").write_text(f"defaults: [cluster: {name}, _self_]\n")
    cfg = compose("x", (), folder)
    assert identity(cfg) == identity(Config())
    assert cfg.cluster != Config().cluster
    assert sbatch.config_digest(cfg) == sbatch.config_digest(Config())


def test_jobs_are_found_by_their_comments_and_dead_ones_do_not_count():
    run_dir = Path("/runs/r")
    work, finish = build([SQUARE])

    def task(name: str, state: str, job: Job, reason: str = "", where: Path = run_dir) -> Task:
        return Task(name, state, reason, "", jobs.comment(where, job), None)

    found = jobs.active_of(run_dir, [
        task("3_0", "RUNNING", work), task("3_1", "PENDING", work), task("3_2", "FAILED", work),
        task("9_2", "PENDING", work), task("4", "PENDING", finish, "DependencyNeverSatisfied"),
        task("5", "RUNNING", finish, where=Path("/runs/other")), Task("6", "RUNNING", "", "", "(null)", None),
    ])  # fmt: skip
    assert found == [Active("work", (SQUARE,), {0: "3_0", 1: "3_1", 2: "9_2"})]


@pytest.mark.parametrize(("text", "seconds"), [("1-02:03:04", 93784), ("2:03", 123), ("INVALID", None), ("", None)])
def test_slurm_writes_times_in_its_own_way(text: str, seconds: float | None):
    assert client.seconds_of(text) == seconds


def test_no_slurm_no_answer_and_a_refusal_are_three_things():
    with pytest.raises(client.SlurmError, match="no such command"):
        client.call(["no-such-slurm-command"], 5)
    with pytest.raises(client.Unreachable):
        client.call(["bash", "-c", "echo 'Unable to contact slurm controller' >&2; exit 1"], 5)
    with pytest.raises(client.Unreachable, match="within"):
        client.call(["sleep", "5"], 0.1)
    with pytest.raises(client.SlurmError, match="Invalid account") as refused:
        client.call(["bash", "-c", "echo 'Invalid account' >&2; exit 1"], 5)
    assert not isinstance(refused.value, client.Unreachable)


def test_the_sizes_of_an_enclosing_job_do_not_become_requests(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")
    monkeypatch.setenv("SLURM_CONF", "/x")
    found = client.outer_environment()
    assert "SLURM_MEM_PER_NODE" not in found
    assert found["SLURM_CONF"] == "/x"


# --- status -------------------------------------------------------------------------------------------------------


def submitted(name: str, job: Job, *after: str) -> Submitted:
    return Submitted(
        name, job.key, job.role, [str(r) for r in job.refs], list(job.shards), job.num_shards, list(after), 0.0
    )


def picture(run_dir: Path, known: dict[str, tuple[str, str]]) -> dict[str, Row]:
    """Status rows of square, pick and tune, submitted as jobs 1 (array), 2 (finish job of the array), 3 and 4."""
    work, finish, pick, tune = build([SQUARE, PICK, TUNE])
    records = [submitted("1", work), submitted("2", finish, "1"), submitted("3", pick, "2"), submitted("4", tune, "3")]
    tasks = {i: Task(i, state, reason, "n1", "", 5.0) for i, (state, reason) in known.items()}
    every = status.known_of(run_dir, records, tasks, {})
    return {
        ref.stage: status.overlay(Row(str(ref), "waiting", None, ""), every, run_dir) for ref in (SQUARE, PICK, TUNE)
    }


def test_status_says_what_runs_what_waits_and_for_what(tmp_path: Path):
    rows = picture(tmp_path, {
        "1_0": ("COMPLETED", ""), "1_1": ("RUNNING", ""), "1_2": ("PENDING", "Resources"), "1_3": ("PENDING", "Resources"),
        "2": ("PENDING", "Dependency"), "3": ("PENDING", "Dependency"), "4": ("PENDING", "Dependency"),
    })  # fmt: skip
    assert (rows["square"].state, rows["square"].node, rows["square"].job) == ("running", "n1", "1_1")
    assert "[1 running, 2 queued of 4 shards]" in rows["square"].words
    assert (rows["pick"].state, rows["pick"].words) == ("queued", "after iter1/square")


def test_status_says_what_failed_why_where_its_log_is_and_what_it_took_with_it(tmp_path: Path):
    folder = tmp_path / "slurm" / "iter1-square"
    folder.mkdir(parents=True)
    (folder / "attempts-2.tsv").write_text(
        "1.0\t1_2.0\tn1\tstart\twork\n2.0\t1_2.0\tn1\tfailed\tcrashed: exit code 7\n"
    )
    rows = picture(tmp_path, {
        **{f"1_{k}": ("COMPLETED", "") for k in (0, 1, 3)}, "1_2": ("FAILED", "NonZeroExitCode"),
        **dict.fromkeys("234", ("CANCELLED", "DependencyNeverSatisfied")),
    })  # fmt: skip
    assert rows["square"].state == "failed"
    assert "crashed: exit code 7" in rows["square"].words
    assert str(folder / "log-1_2.txt") in rows["square"].words
    assert (rows["tune"].state, rows["tune"].words) == ("cancelled", "because iter1/square failed (job 1_2)")


def test_a_node_failure_is_told_from_a_crash(tmp_path: Path):
    rows = picture(tmp_path, {f"1_{k}": ("NODE_FAIL", "NodeDown") for k in range(4)})
    assert "its node died" in rows["square"].words


def test_a_job_that_slurm_has_forgotten_is_not_called_failed(tmp_path: Path):
    rows = picture(tmp_path, {})
    assert rows["square"].state == "stopped"
    assert "submit again" in rows["square"].words


def test_an_earlier_submissions_failure_is_not_this_ones(tmp_path: Path):
    folder = tmp_path / "slurm" / "iter1-tune"
    folder.mkdir(parents=True)
    (folder / "attempts-0.tsv").write_text("1.0\t12.0\tn1\tfailed\told\n2.0\t21.0\tn1\tstart\twork\n")
    job = submitted("12", build([TUNE])[0])
    assert supervise.last_outcome(tmp_path, job) == ("failed", "old")
    assert supervise.last_outcome(tmp_path, submitted("1", build([TUNE])[0])) == ("", "")


# --- hangs --------------------------------------------------------------------------------------------------------


def test_no_progress_is_a_hang_after_the_limit_of_its_phase(tmp_path: Path):
    folder = stage_directory(tmp_path, TUNE)
    folder.mkdir(parents=True)
    detector = HangDetector(tmp_path, [TUNE], {"setup": 100, "work": 10, "save": 50}, 0)
    assert detector.reason() == ""
    Progress(folder).update(0, 10)
    assert detector.reason() == ""
    assert detector.phase == "setup"  # no progress yet: the model is being loaded
    Progress(folder).update(1, 10)
    assert detector.reason() == ""
    assert detector.phase == "work"
    detector.changed -= 11
    assert "phase work, limit 10 s" in detector.reason()
    Progress(folder).update(10, 10)
    assert detector.reason() == ""
    assert detector.phase == "save"


def test_the_time_for_which_slurm_suspends_a_job_is_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    detector = HangDetector(tmp_path, [GROW], {"setup": 60, "work": 60, "save": 60}, 0)
    for seconds, hung in ((20.0, False), (7200.0, False), (20.0, False), (25.0, True)):
        clock[0] += seconds
        assert bool(detector.reason()) == hung


def test_a_limit_of_zero_never_ends_an_attempt(tmp_path: Path):
    detector = HangDetector(tmp_path, [TUNE], {"setup": 0, "work": 0, "save": 0}, 0)
    detector.changed -= 1e6
    assert detector.reason() == ""


WORKER = """
import os, pathlib, signal, sys, time
from nemo_srlm.core.process import die_with_parent
def slowly(number, frame):
    time.sleep(1)
    pathlib.Path(sys.argv[1]).write_text("stacks")
    os._exit(1)
die_with_parent(os.getppid())
signal.signal(signal.SIGABRT, slowly)
pathlib.Path(sys.argv[1] + ".ready").touch()
time.sleep(1000)
"""


def test_a_hung_worker_has_time_to_write_its_stacks_though_it_dies_with_its_launcher(tmp_path: Path):
    stacks = tmp_path / "stacks"
    launcher = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    child = subprocess.Popen([sys.executable, "-c", launcher, WORKER, str(stacks)])
    while not stacks.with_suffix(".ready").exists():
        time.sleep(0.05)
    dump(child)
    assert child.returncode is not None
    assert stacks.read_text() == "stacks"
