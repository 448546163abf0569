"""What Slurm's commands write, in the forms that its documentation shows: limits, clusters, ends of jobs. Needs no Slurm.

The commands are scripts on PATH that print such a text, so that the words which are asked are looked at, too.
"""

import getpass
import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from nemo_srlm.config.cluster import ClusterSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core.stage import Ref
from nemo_srlm.errors import ConfigError
from nemo_srlm.launch.slurm import client, limits, status, submit, supervise, verbs
from nemo_srlm.launch.slurm.client import Task
from nemo_srlm.launch.slurm.jobs import Active
from nemo_srlm.launch.slurm.submit import Submitted


class Commands:
    """Scripts in the place of Slurm's commands; `asked` are the words of their calls."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory

    def add(self, name: str, out: str = "", err: str = "", code: int = 0) -> None:
        for stream, text in (("out", out), ("err", err)):
            (self.dir / f"{name}.{stream}").write_text(text)
        script = self.dir / name
        script.write_text(
            f'#!/bin/bash\necho "{name} $*" >>{self.dir}/calls\ncat {script}.out\ncat {script}.err >&2\nexit {code}\n'
        )
        script.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        return (self.dir / "calls").read_text().splitlines()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_CLUSTERS", raising=False)
    return Commands(directory)


# --- limits on the number of jobs ---------------------------------------------------------------------------------

POLICY = (
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or "
    "time limits)\n"
)


@pytest.mark.parametrize(
    "said",
    [
        f"sbatch: error: AssocMaxSubmitJobLimit\n{POLICY}", f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{POLICY}",
        f"sbatch: error: AssocGrpSubmitJobsLimit\n{POLICY}", f"sbatch: error: QOSGrpSubmitJobsLimit\n{POLICY}", POLICY,
        "sbatch: error: Batch job submission failed: Invalid job array specification\n",
    ],
)  # fmt: skip
def test_a_limit_on_the_number_of_jobs_is_waited_for(slurm: Commands, said: str):
    slurm.add("sbatch", err=said, code=1)
    with pytest.raises(client.LimitReached):
        client.submit(["job.sh"])


@pytest.mark.parametrize(
    "name",
    ["QOSMaxWallDurationPerJobLimit", "QOSMaxNodePerUserLimit", "AssocMaxWallDurationPerJobLimit", "QOSMinGRES",
     "QOSMaxGRESPerJob"],
)  # fmt: skip
def test_a_limit_on_the_size_of_a_job_is_a_refusal_with_its_name_though_the_sentence_is_the_same(
    slurm: Commands, name: str
):
    slurm.add("sbatch", err=f"sbatch: error: {name}\n{POLICY}", code=1)
    with pytest.raises(client.SlurmError, match=name) as refused:
        client.submit(["job.sh"])
    assert not isinstance(refused.value, client.LimitReached)


CONFIG = """Configuration data as of 2026-11-26T04:00:00
AccountingStorageEnforce = associations,limits,qos
ClusterName             = east
MaxArraySize            = 1001
MaxJobCount             = 10000
SchedulerParameters     = (null)
"""


def test_the_association_of_this_cluster_says_how_many_jobs_may_be_submitted(slurm: Commands):
    """The database of a site holds the associations of all of its clusters."""
    slurm.add("scontrol", CONFIG)
    slurm.add("sacctmgr", "200|\n1000|300\n")
    found = limits.ask(Config(cluster=ClusterSection(account="llm")))
    assert (found.jobs, found.jobs_name, found.tasks) == (200, "MaxSubmitJobs", 1001)
    asked = f"show assoc where user={getpass.getuser()} cluster=east account=llm format=MaxSubmitJobs,GrpSubmitJobs"
    assert slurm.asked[1] == f"sacctmgr --noheader --parsable2 {asked}"


def test_without_an_account_the_usual_one_says_it_and_not_that_of_a_project_that_has_ended(
    slurm: Commands, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("SBATCH_ACCOUNT", raising=False)
    slurm.add("scontrol", CONFIG)
    slurm.add("sacctmgr", "200|\n")
    cluster = ClusterSection()
    for name, said in (("", "onlydefaults"), ("llm", "onlydefaults"), ("usual", "account=llm,usual")):
        cluster.train.account = name if name == "llm" else cluster.train.account
        cluster.account = name if name == "usual" else ""
        limits.ask(Config(cluster=cluster))
        assert f" {said} format=MaxSubmitJobs" in slurm.asked[-1]


def test_a_site_without_job_arrays_is_told_from_one_with_small_ones(slurm: Commands):
    slurm.add("scontrol", CONFIG.replace("1001", "0"))
    slurm.add("sacctmgr", code=1)
    cfg = Config()
    assert limits.ask(cfg).tasks == 0
    cfg.judge.shards = 8
    with pytest.raises(ConfigError, match="this site has no job arrays"):
        limits.ask(cfg)


def test_a_site_without_an_accounting_database_has_the_controllers_limit(slurm: Commands):
    slurm.add("scontrol", CONFIG)
    slurm.add("sacctmgr", err="sacctmgr: error: You are not running a supported accounting_storage plugin\n", code=1)
    assert limits.ask(Config()).jobs == 10_000


# --- clusters -----------------------------------------------------------------------------------------------------

QUEUE = """CLUSTER: east
1234_7|RUNNING|None|node[01-02]|1-02:03:04|r/iter1-judge|nemo-srlm work iter1/judge /runs/r
1240|PENDING|Dependency||0:00|r/iter1-pairs|nemo-srlm work iter1/pairs /runs/r
"""


def test_jobs_on_a_named_cluster_are_submitted_and_found_there(slurm: Commands, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_CLUSTERS", "east")
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # of an enclosing job
    assert client.outer_environment()["SLURM_CLUSTERS"] == "east"
    assert "SLURM_JOB_ID" not in client.outer_environment()
    slurm.add("sbatch", "1234;east\n")
    assert client.submit(["job.sh"]) == "1234"
    slurm.add("squeue", QUEUE)
    assert [(t.id, t.state, t.nodes, t.seconds, t.name) for t in client.mine()] == [
        ("1234_7", "RUNNING", "node[01-02]", 93784.0, "r/iter1-judge"), ("1240", "PENDING", "", 0.0, "r/iter1-pairs"),
    ]  # fmt: skip
    slurm.add("sinfo", "CLUSTER: east\n")
    assert not client.nodes_away("gpu")
    slurm.add("sinfo", "CLUSTER: east\nnode[01-02]\n")
    assert client.nodes_away("gpu")
    slurm.add("sacct", "1240|COMPLETED\n")
    assert client.accounted(["1240"]) == {"1240": "COMPLETED"}
    assert slurm.asked[-1] == "sacct --clusters=east -X -n -P -o JobID,State -j 1240"  # sacct reads no variable for it


# --- ends of jobs -------------------------------------------------------------------------------------------------

ENDS = """12|COMPLETED
13_1|CANCELLED by 1000
13_2|OUT_OF_MEMORY
13_[3-7%2]|PENDING
14|NODE_FAIL
15|TIMEOUT
16|PREEMPTED
"""


def test_the_ends_that_the_accounting_database_knows(slurm: Commands):
    slurm.add("sacct", ENDS)
    assert client.accounted(["12", "13", "14"]) == {
        "12": "COMPLETED", "13_1": "CANCELLED", "13_2": "OUT_OF_MEMORY", "13_[3-7%2]": "PENDING", "14": "NODE_FAIL",
        "15": "TIMEOUT", "16": "PREEMPTED",
    }  # fmt: skip
    assert "--clusters" not in slurm.asked[0]


def test_what_a_person_has_cancelled_is_known_after_the_controller_has_forgotten_it(slurm: Commands, tmp_path: Path):
    """Of jobs that were cancelled because of another the database says the same: they have not begun."""
    record = [Submitted("13", "iter1-dpo", "work", ["iter1/dpo"], [], 1, [], 0.0),
              Submitted("14", "iter1-pairs", "work", ["iter1/pairs"], [], 1, [], 0.0),
              Submitted("15", "supervisor", "supervise", [], [], 1, [], 0.0)]  # fmt: skip
    folder = tmp_path / "slurm/iter1-dpo"
    folder.mkdir(parents=True)
    (folder / "attempts-0.tsv").write_text("1.0\t13.0\tn1\tstart\twork\n")
    (tmp_path / "slurm/jobs.json").write_text(json.dumps([asdict(job) for job in record]))
    slurm.add("sacct", "13|CANCELLED by 1000\n14|CANCELLED by 1000\n")
    assert supervise.cancelled_by_hand(tmp_path, []) == ["iter1-dpo (job 13)"]
    slurm.add("sacct", code=1)  # no accounting: the site's other rules hold
    assert supervise.cancelled_by_hand(tmp_path, []) == []


def failed_job(
    run_dir: Path, name: str, refs: list[str], shards: list[int], number: int, word: str = "failed"
) -> Submitted:
    """A job whose attempts at all shards have ended so."""
    key = refs[0].replace("/", "-")
    for shard in shards or [0]:
        attempts = run_dir / f"slurm/{key}/attempts-{shard}.tsv"
        attempts.parent.mkdir(parents=True, exist_ok=True)
        with attempts.open("a") as f:
            f.write(f"1.0\t{name}{f'_{shard}' if shards else ''}.0\tn1\t{word}\tcrashed\n")
    return Submitted(name, key, "work", refs, shards, number, [], 0.0)


def test_a_failure_of_shards_or_of_a_shared_job_that_there_are_no_longer_ends_nothing(tmp_path: Path):
    """judge.shards=8 was too many for the site; pairs shared a job with candidates, which is done by now."""
    before = [
        failed_job(tmp_path, "1", ["iter1/judge"], [0, 1, 2, 3, 4, 5, 6, 7], 8),
        failed_job(tmp_path, "2", ["iter1/candidates", "iter1/pairs"], [], 1),
    ]
    now = [
        failed_job(tmp_path, "3", ["iter1/judge"], [0, 1], 2, "done"),
        failed_job(tmp_path, "4", ["iter1/pairs"], [], 1, "done"),
    ]
    path = tmp_path / "slurm/jobs.json"
    path.write_text(json.dumps([asdict(job) for job in before]))
    assert len(supervise.final_failures(tmp_path)) == 9
    path.write_text(json.dumps([asdict(job) for job in before + now]))
    assert supervise.final_failures(tmp_path) == []
    assert [k.id for k in status.known_of(tmp_path, before + now, {}, {})] == ["3_0", "3_1", "4"]


# --- the supervisor -----------------------------------------------------------------------------------------------


def test_a_supervisor_asks_again_when_the_controller_does_not_answer_or_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(verbs, "PATIENCE", (0.0, 0.0))
    monkeypatch.chdir(tmp_path)
    answers = iter([client.Unreachable("Slurm", "no answer"), client.LimitReached("sbatch", "no room"), "done"])

    def answer(run_dir: Path) -> str:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(supervise, "supervise", answer)
    assert verbs.supervise(tmp_path) == 0
    answers = iter([client.Unreachable("Slurm", "no answer")] * 3)
    with pytest.raises(client.Unreachable):
        verbs.supervise(tmp_path)


@pytest.mark.parametrize(
    ("state", "entries", "ended"),
    [
        ("FAILED", [], True),
        (status.GONE, [], True),  # it failed before it could write anything down
        (status.GONE, [{"time": 1.0}], True),  # that was the one before it
        (status.GONE, [{"time": 3.0, "failed": True}], True),
        (status.GONE, [{"time": 3.0}], False),
        ("PENDING", [], False),
    ],
)
def test_a_supervisor_that_slurm_has_forgotten_is_judged_by_what_it_has_written(
    tmp_path: Path, state: str, entries: list[dict[str, object]], ended: bool
):
    (tmp_path / "slurm").mkdir()
    if entries:
        (tmp_path / "slurm/supervision.json").write_text(json.dumps(entries))
    job = Submitted("15", "supervisor", "supervise", [], [], 1, [], 2.0)
    found = status.Known(job, 0, "15", state, "", "", None, "", "")
    assert status.supervision_ended(tmp_path, found) == ended
    (tmp_path / "slurm/cancelled").touch()
    assert status.supervision_ended(tmp_path, found) == (state == "FAILED")


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("", "out of memory (n1)"),
        ("failed\tcrashed: srun ended with 137 and a node reported no outcome",
         "out of memory (n1): crashed: srun ended with 137"),
        ("failed\tcrashed: out of memory: the kernel killed a process of the job",
         "crashed: out of memory: the kernel killed"),
    ],
)  # fmt: skip
def test_a_job_that_slurm_calls_out_of_memory_is_called_so_whatever_its_script_saw(
    tmp_path: Path, outcome: str, said: str
):
    job = Submitted("17", "iter1-dpo", "work", ["iter1/dpo"], [], 1, [], 0.0)
    folder = tmp_path / "slurm/iter1-dpo"
    folder.mkdir(parents=True)
    if outcome:
        (folder / "attempts-0.tsv").write_text(f"1.0\t17.0\tn1\t{outcome}\n")
    task = Task("17", "OUT_OF_MEMORY", "OutOfMemory", "n1", "", 60.0)
    (known,) = status.known_of(tmp_path, [job], {"17": task}, {})
    assert known.failed
    assert known.why.startswith(said)


@pytest.mark.parametrize(
    ("reason", "released"),
    [("launch failed requeued held", True), ("launch_failed_requeued_held", True), ("JobHoldMaxRequeue", True),
     ("JobHeldUser", False), ("Dependency", False)],
)  # fmt: skip
def test_a_submission_releases_the_runs_jobs_that_slurm_has_held_and_no_others(
    slurm: Commands, reason: str, released: bool
):
    """Without it all others wait for them without end: the supervisor's job, too."""
    slurm.add("scontrol")
    mine = Active("work", (Ref("pretrain", 0),), {0: "12"})
    submit.release_held([mine], [Task(name, "PENDING", reason, "", "", None) for name in ("12", "13")])
    calls = slurm.dir / "calls"
    assert (calls.read_text().split("\n")[:-1] if calls.exists() else []) == (
        ["scontrol release 12"] if released else []
    )
