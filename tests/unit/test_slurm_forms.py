"""What Slurm's commands write, in the forms that its documentation shows: limits, clusters, ends of jobs. Needs no Slurm.

The commands are scripts on PATH that print such a text, so that the words which are asked are looked at, too.
"""

import getpass
import os
from pathlib import Path

import pytest

from nemo_srlm.config.cluster import ClusterSection
from nemo_srlm.config.schema import Config
from nemo_srlm.launch.slurm import client, limits, status
from nemo_srlm.launch.slurm.client import Task
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
