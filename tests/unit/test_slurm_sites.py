"""Rules of Slurm sites as pure functions: limits, flags, requests, memory, caches, locks, the copy of the code."""

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_srlm.config import shipped
from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.config.cluster import ClusterSection, check_flags
from nemo_srlm.config.compose import compose
from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.config.shipped import CONFIGS, SLURM
from nemo_srlm.core.control import error_file, read_error
from nemo_srlm.core.stage import Ref
from nemo_srlm.errors import ConfigError, EngineError, PassingError, UserError, is_passing
from nemo_srlm.launch import contract, lock
from nemo_srlm.launch.slurm import client, jobs, limits, node, sbatch, snapshot, supervise
from nemo_srlm.launch.slurm.client import Task
from nemo_srlm.launch.slurm.jobs import Active, Job

ROOT = Path(__file__).resolve().parents[2]
RUN = Path("/runs/r")
JUDGE = Job("iter1-judge", "work", (Ref("judge", 1),), "generate", tuple(range(8)), 8, ())
SFT = Job("iter0-sft", "work", (Ref("sft", 0),), "train", (), 1, ())


# --- limits -------------------------------------------------------------------------------------------------------


def test_an_array_is_split_so_that_no_index_reaches_the_limit():
    assert [(part.array, part.offset) for part in JUDGE.split(3)] == [("0-2", 0), ("0-2", 3), ("0-1", 6)]
    assert [(part.array, part.offset) for part in JUDGE.split(100)] == [("0-7", 0)]
    late = Job("iter1-judge", "work", JUDGE.refs, "generate", (1, 5, 6), 8, ())
    assert [(part.array, part.offset) for part in late.split(6)] == [("0,4,5", 1)]
    assert list(SFT.split(1)) == [SFT]
    assert sbatch.arguments(Config(), RUN, [*JUDGE.split(3)][1], [])[-3:] == ["/runs/r/slurm/iter1-judge", "work", "3"]


def test_the_shards_of_a_split_array_are_known_again():
    tasks = [Task(f"7_{k}", "RUNNING", "", "n", jobs.comment(RUN, [*JUDGE.split(3)][1]), None) for k in range(2)]
    assert jobs.active_of(RUN, tasks) == [Active("work", JUDGE.refs, {3: "7_0", 4: "7_1"})]


def test_a_job_whose_comment_the_site_has_replaced_is_known_by_its_id_and_name():
    recorded = {"7": jobs.comment(RUN, SFT)}
    ours = Task("7", "RUNNING", "", "n", "project 3", None, "r/iter0-sft")
    assert jobs.active_of(RUN, [ours], recorded) == [Active("work", SFT.refs, {0: "7"})]
    assert jobs.active_of(RUN, [Task("7", "RUNNING", "", "n", "project 3", None, "other")], recorded) == []


CONTROLLER = """Configuration data as of 2026-11-26
MaxArraySize            = 1001
MaxJobCount             = 10000
SchedulerParameters     = batch_sched_delay=0,max_array_tasks=500
"""


def test_limits_are_read_from_what_slurm_says():
    found = limits.of_config(CONTROLLER)
    assert found == limits.Limits(500, 10000, "max_array_tasks", "MaxJobCount")
    assert str(found) == "500 tasks in an array (max_array_tasks), 10000 jobs of yours (MaxJobCount)"
    assert limits.of_accounting("|\n50|200\n") == 50
    assert limits.of_accounting("|\n") == limits.NO_LIMIT
    mine = [Task(str(i), "PENDING", "", "", "", None, f"r/{i}") for i in range(4)]
    own = Task("9", "RUNNING", "", "", "", None, "r/supervisor")
    ended = Task("8", "COMPLETED", "", "", "", None)
    assert limits.Limits(jobs=10).room([*mine, own, ended], "r/supervisor") == 10 - 4 - 2
    assert limits.Limits(jobs=2).room([ended], "") == 2  # a run without a supervisor


def test_a_refusal_for_a_limit_is_told_from_others():
    said = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)"
    with pytest.raises(client.LimitReached, match="job submit limit"):
        client.call(["bash", "-c", f"echo '{said}' >&2; exit 1"], 5)
    waits = "echo 'sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying' >&2; sleep 5"
    with pytest.raises(client.LimitReached, match="temporarily unable"):
        client.call(["bash", "-c", waits], 0.5)


def test_submissions_count_as_vain_only_without_progress_between_them():
    def past(*done: float) -> list[dict[str, object]]:
        return [{"replanned": True, "progress": [1.0, d]} for d in done]

    assert supervise.in_vain(past(3, 5, 5), [1.0, 5.0]) == 2
    assert supervise.in_vain(past(3, 5, 5), [1.0, 6.0]) == 0
    assert supervise.in_vain(past(3, 5, 5), [2.0, 0.0]) == 0
    assert supervise.in_vain(past(50, 60, 55), [1.0, 58.0]) == 2  # nothing is saved, and it ends here and there
    assert supervise.in_vain([*past(5), {"replanned": False}], [1.0, 5.0]) == 1  # room for more is no attempt


# --- what a site may ask for --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "said"),
    [("--comment=x", "submit, status and cancel know"), ("-Jname", "the run"), ("--time 5", "cluster.KIND.time"),
     ("--qos=high", "cluster.qos"), ("--clusters=a", "SLURM_CLUSTERS"), ("--comm=x", "submit, status and cancel know")],
)  # fmt: skip
def test_flags_that_a_submission_sets_itself_are_refused_by_name(flag: str, said: str):
    cluster = ClusterSection()
    cluster.train.flags = [flag]
    with pytest.raises(ConfigError, match=rf"cluster.train.flags: {flag[:2]}.* is set by every submission.*{said}"):
        check_flags(cluster)
    check_flags(
        ClusterSection(flags=["--no-requeue", "--wckey=x", "--mem-per-cpu=3", "--time-min=5", "--gres-flags=x"])
    )


def test_a_flag_with_an_equals_sign_is_written_in_quotes_and_the_error_says_so():
    cfg = compose("tiny", ['cluster.flags=["--wckey=x"]'])
    assert cfg.cluster.flags == ["--wckey=x"]
    with pytest.raises(ConfigError, match=r"""quote each text that holds =, .*: 'cluster.flags=\["--wckey=x"\]'"""):
        compose("tiny", ["cluster.flags=[--wckey=x]"])


def test_every_kind_of_stage_may_have_its_own_account_reservation_and_mail():
    cfg = Config(cluster=ClusterSection(account="a", reservation="week", mail_user="me@x", mail_type="FAIL", nice="10"))
    cfg.cluster.train.account, cfg.cluster.train.licenses = "gpu", "tool:1"
    found = sbatch.arguments(cfg, RUN, SFT, [])
    assert {
        "--account=gpu",
        "--reservation=week",
        "--mail-user=me@x",
        "--mail-type=FAIL",
        "--nice=10",
        "--licenses=tool:1",
    } <= {*found}
    assert "--account=a" in sbatch.arguments(cfg, RUN, JUDGE, [])
    assert not [w for w in sbatch.arguments(Config(), RUN, SFT, []) if w.startswith(("--nice", "--mail", "--licenses"))]


def test_the_supervisor_gets_code_and_interpreter_as_arguments(tmp_path: Path):
    job = Job("supervisor", "supervise", (), "cpu", (), 1, ())
    words = sbatch.arguments(Config(), tmp_path, job, [], shipped.PACKAGE.parent)
    script = words.index(str(SLURM / "iteration.sh"))
    done = subprocess.run(["env", "-i", "bash", *words[script:]], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 2
    assert (
        f"{tmp_path}/config.yaml: no such file" in done.stderr
    )  # it ran, without PATH, PYTHON and a checkout around it
    assert sys.executable in words


@pytest.mark.parametrize("submitted_at", ["/", str(ROOT)])
def test_the_script_finds_its_checkout_in_a_shell_inside_a_job_and_under_sbatch(tmp_path: Path, submitted_at: str):
    env = os.environ | {"SLURM_JOB_ID": "1", "SLURM_SUBMIT_DIR": submitted_at, "PYTHON": "/bin/echo"}
    spooled = tmp_path / "job1/slurm_script"
    spooled.parent.mkdir()
    spooled.write_bytes((SLURM / "iteration.sh").read_bytes())
    script = SLURM / "iteration.sh" if submitted_at == "/" else spooled
    done = subprocess.run(["bash", str(script), "x=1"], env=env, cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "-m nemo_srlm.cli submit x=1\n"), done.stderr


def test_profiles_leave_the_network_interface_to_the_site_and_state_the_cpus_of_every_kind(tmp_path: Path):
    (tmp_path / "x.yaml").write_text("defaults: [cluster: dgx_h100, _self_]\n")
    (tmp_path / "cluster").symlink_to(CONFIGS / "cluster")
    cluster = compose("x", (), tmp_path).cluster
    assert cluster.interface == ""
    assert min(own.cpus for own in (cluster.train, cluster.generate, cluster.convert, cluster.cpu)) > 0


@pytest.mark.parametrize("name", ["llama2_7b", "llama2_13b", "llama2_70b"])
def test_engines_leave_no_gpu_of_a_dgx_without_processors_or_memory(name: str):
    """A DGX H100 has 112 cores and 2 TB: what a job of the array asks for decides how many run on a node."""
    cfg = compose(name)
    site, own = cfg.cluster, cfg.cluster.generate
    engines = site.gpus_per_node // cfg.generate.tensor_parallel
    assert engines * own.cpus <= 112
    assert engines * int(own.memory.removesuffix("G")) <= 1900  # the system has some of it


PROFILES = dict(re.findall(r"^```yaml (\w+)\n(.*?)^```$", (ROOT / "docs/sites.md").read_text(), re.M | re.S))


@pytest.mark.parametrize("name", ["modules", "conda", "pyxis", "apptainer"])
def test_the_profiles_of_the_documentation_build_and_make_jobs(name: str, tmp_path: Path):
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster/site.yaml").write_text(PROFILES[name])
    (tmp_path / "x.yaml").write_text("defaults: [cluster: site, _self_]\n")
    cfg = compose("x", (), tmp_path)
    check_flags(cfg.cluster)
    assert identity(cfg) == identity(Config())
    for job in (SFT, JUDGE):
        own = sbatch.section(cfg, job)
        words = sbatch.arguments(cfg, RUN, job, [])
        assert f"--cpus-per-task={own.cpus}" in words
        assert any(word.startswith("--gres=gpu:") for word in words)
        text = sbatch.shell(cfg, RUN, job, Path("/code"))
        subprocess.run(["bash", "-un", "-c", text], check=True)
        assert bool(own.image) == (name in ("pyxis", "apptainer"))
        assert own.image in text


# --- what passes, and what a node tells ---------------------------------------------------------------------------


def test_an_engine_that_fails_for_no_setting_is_tried_again(tmp_path: Path):
    assert is_passing(PassingError("model", "CUDA error"))
    assert is_passing(OSError(errno.ESTALE, "stale"))
    assert not is_passing(EngineError("generate.quantization", "fp8 without a GPU"))
    with pytest.raises(PassingError):  # an exit code other than that of the user's mistakes
        contract.record_failure(PassingError("model", "CUDA error"), Ref("judge", 1), tmp_path)
    assert read_error(tmp_path) == "model: CUDA error"
    wrong = EngineError("generate.x", "wrong")
    assert contract.record_failure(wrong, Ref("judge", 1), tmp_path) is wrong


def test_an_empty_error_file_is_no_reason_and_a_failed_write_leaves_nothing(tmp_path: Path):
    assert read_error(tmp_path) == ""
    path = error_file(tmp_path)
    path.parent.mkdir()
    path.write_text("\n")
    assert read_error(tmp_path) == ""
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "half a pair \ud800")
    assert [p.name for p in path.parent.iterdir()] == ["error"]


@pytest.mark.parametrize(
    ("line", "file"),
    [("0::/slurm/job_7/step_0/user", "slurm/job_7/memory.events"),
     ("4:memory:/slurm/uid_1/job_7/step_0", "memory/slurm/uid_1/job_7/step_0/memory.oom_control")],
)  # fmt: skip
def test_what_the_kernel_killed_for_memory_is_counted_in_the_groups_of_the_job(tmp_path: Path, line: str, file: str):
    (tmp_path / "own").write_text(f"3:cpuset:/x\n{line}\n")
    assert node.oom_kills(tmp_path / "own", tmp_path / "fs") == 0
    place = tmp_path / "fs" / file
    place.parent.mkdir(parents=True)
    place.write_text("oom_kill_disable 0\noom_kill 2\n")
    assert node.oom_kills(tmp_path / "own", tmp_path / "fs") == 2
    other = tmp_path / "fs" / file.partition("/job_7")[0] / place.name  # of all jobs on the node
    other.write_text("oom_kill 40\n")
    assert node.oom_kills(tmp_path / "own", tmp_path / "fs") == 2


def test_caches_of_compiled_code_lie_on_the_node_unless_the_environment_says_where(tmp_path: Path):
    found = node.caches(str(tmp_path), {"TRITON_CACHE_DIR": "/mine"})
    assert "TRITON_CACHE_DIR" not in found
    assert Path(found["VLLM_CACHE_ROOT"]).is_relative_to(tmp_path)
    assert (tmp_path.stat().st_mode & 0o777) != 0
    assert node.caches("", {}) == {}
    (tmp_path / "file").touch()
    assert node.caches(str(tmp_path / "file"), {}) == {}


@pytest.mark.parametrize("change", [{"f_flag": os.ST_NOEXEC}, {"f_bavail": 10}])
def test_a_folder_on_the_node_that_is_full_or_from_which_no_code_is_loaded_is_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, int]
):
    usual = {"f_flag": 0, "f_bavail": 2**30, "f_frsize": 4096}
    for found, wanted in ((usual, True), (usual | change, False)):
        monkeypatch.setattr(os, "statvfs", lambda path, found=found: SimpleNamespace(**found))
        assert bool(node.caches(str(tmp_path), {})) == wanted


def test_a_node_that_lacks_gpus_is_no_mistake_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The check is tried again on another node: one of hundreds has lost a GPU."""
    monkeypatch.setattr(node, "pipeline", lambda cfg: [])
    with pytest.raises(
        PassingError, match=r"PyTorch sees \d+ GPUs; expected 100, which the job has asked for"
    ) as raised:
        node.check_node(Config(), tmp_path, "train", 100)
    with pytest.raises(PassingError):
        contract.record_failure(raised.value, Ref("sft", 0), tmp_path)


# --- locks and the copy of the code -------------------------------------------------------------------------------


def test_without_flock_a_file_locks_names_its_owner_and_is_taken_over_from_the_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    held = tmp_path / lock.HELD
    with lock.locked(tmp_path):
        assert json.loads(held.read_text())["pid"] == os.getpid()
        with (
            pytest.raises(UserError, match=rf"held by process {os.getpid()} on .*remove this file"),
            lock.locked(tmp_path),
        ):
            pass
    assert not held.exists()
    dead = subprocess.Popen(["true"])
    dead.wait()
    held.write_text(json.dumps({"host": os.uname().nodename, "pid": dead.pid}))
    with lock.locked(tmp_path):
        pass
    held.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    with pytest.raises(UserError, match="held by process 1 on elsewhere"), lock.locked(tmp_path):
        pass


def test_jobs_run_a_copy_of_the_code_that_knows_its_commit_and_where_jobs_work(tmp_path: Path):
    cfg = Config()
    code = snapshot.code_of(cfg, tmp_path)
    assert snapshot.code_of(cfg, tmp_path) == code
    assert (code / "slurm/stage.sh").read_bytes() == (SLURM / "stage.sh").read_bytes()
    ask = (
        "from nemo_srlm.config import shipped as s; from nemo_srlm.core.manifest import commit; "
        "print(s.CONFIGS, s.job_directory(), commit())"
    )
    env = os.environ | {"PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", ask], cwd=code, env=env, capture_output=True, text=True, check=True)
    configs, directory, commit = done.stdout.split()
    assert (configs, directory) == (str(code / "configs"), str(shipped.job_directory()))
    assert commit == json.loads((code / shipped.SNAPSHOT).read_text())["commit"]
    (code / "nemo_srlm/cli.py").unlink()  # a purge of scratch takes files one by one
    assert snapshot.code_of(cfg, tmp_path) == code
    assert (code / "nemo_srlm/cli.py").read_bytes() == (shipped.PACKAGE / "cli.py").read_bytes()
    cfg.cluster.snapshot = False
    assert snapshot.code_of(cfg, tmp_path) == shipped.job_directory()
