"""How many jobs and array tasks Slurm accepts: what it says, and what the config says for sites where it does not."""

import getpass
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_srlm.config.schema import Config
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.errors import ConfigError
from nemo_srlm.launch.slurm import client
from nemo_srlm.launch.slurm.client import Task
from nemo_srlm.stages import load

NO_LIMIT = 10**9
OF_SUPERVISORS = 2  # jobs of a supervised run: the one that runs submits the next


@dataclass(frozen=True)
class Limits:
    """`tasks`: of an array, and what an index must be below. `jobs`: of this user, array tasks counted. With their names."""

    tasks: int = NO_LIMIT
    jobs: int = NO_LIMIT
    tasks_name: str = ""
    jobs_name: str = ""

    def room(self, found: Sequence[Task], supervisor: str) -> int:
        """How many more jobs of a run fit beside this user's active jobs `found`. `supervisor`: the title of the run's own, ""
        for a run without."""
        return (
            self.jobs
            - sum(task.active and task.name != supervisor for task in found)
            - bool(supervisor) * OF_SUPERVISORS
        )

    def __str__(self) -> str:
        known = ((self.tasks, "tasks in an array", self.tasks_name), (self.jobs, "jobs of yours", self.jobs_name))
        words = [f"{number} {what} ({name})" for number, what, name in known if number < NO_LIMIT]
        return ", ".join(words) or "none that Slurm tells"


def of_config(text: str) -> Limits:
    """From `scontrol show config`."""
    values = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", text, re.MULTILINE))
    tasks, tasks_name = int(values.get("MaxArraySize", NO_LIMIT)), "MaxArraySize"
    found = re.search(r"max_array_tasks=(\d+)", values.get("SchedulerParameters", ""))
    if found and int(found[1]) < tasks:
        tasks, tasks_name = int(found[1]), "max_array_tasks"
    return Limits(tasks, int(values.get("MaxJobCount", NO_LIMIT)), tasks_name, "MaxJobCount")


def of_accounting(rows: str) -> int:
    """The smallest number of a `sacctmgr --parsable2` table; NO_LIMIT without one."""
    return min(
        (int(word) for line in rows.splitlines() for word in line.split("|") if word.isdigit()), default=NO_LIMIT
    )


def cluster_of(text: str) -> str:
    """The controller's cluster, from `scontrol show config`; "" where it does not say."""
    found = re.search(r"^ClusterName\s*=\s*(\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def _accounting(cfg: Config, cluster: str) -> int:
    """MaxSubmitJobs of this user's associations on this cluster (the database knows others, too: that of a project that has
    ended accepts no job) and QOS. Sites without an accounting database have none."""
    site = cfg.cluster
    usual = site.account or os.environ.get("SBATCH_ACCOUNT", "")
    accounts = sorted({own.account or usual for own in (site.train, site.generate, site.convert, site.cpu)})
    show = ["sacctmgr", "--noheader", "--parsable2", "show"]
    own = [
        "assoc",
        "where",
        f"user={getpass.getuser()}",
        *([f"cluster={cluster}"] if cluster else []),
        f"account={','.join(accounts)}" if all(accounts) else "onlydefaults",
    ]
    found = NO_LIMIT
    for words in (
        [*own, "format=MaxSubmitJobs,GrpSubmitJobs"],
        *([["qos", "where", f"name={cfg.cluster.qos}", "format=MaxSubmitJobsPerUser,MaxSubmitJobsPerAccount,GrpSubmitJobs"]]
          if cfg.cluster.qos else []),
    ):  # fmt: skip
        try:
            found = min(found, of_accounting(client.call([*show, *words], client.STATUS_SECONDS)))
        except client.SlurmError:
            return found
    return found


def ask(cfg: Config) -> Limits:
    """The limits of the site. Raises SlurmError when the controller does not answer."""
    text = client.call(["scontrol", "show", "config"], client.SUBMIT_SECONDS)
    known = of_config(text)
    if known.tasks == 0 and max(load(ref.stage).shards(cfg) for ref in pipeline(cfg)) > 1:
        raise ConfigError(
            "Slurm", "MaxArraySize is 0: this site has no job arrays", "stages without shards",
            "set every *.shards=1; generate.replicas gives a job several engines",
        )  # fmt: skip
    jobs = [(known.jobs, known.jobs_name), (_accounting(cfg, cluster_of(text)), "MaxSubmitJobs")]
    jobs += [(cfg.cluster.max_jobs, "cluster.max_jobs")] if cfg.cluster.max_jobs else []
    most, name = min(jobs)
    return Limits(known.tasks, most, known.tasks_name, name)
