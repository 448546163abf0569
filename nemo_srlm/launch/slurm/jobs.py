"""The unfinished stages of a run as Slurm jobs with their dependencies, and the jobs that are active: pure data."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nemo_srlm.config.schema import Config
from nemo_srlm.core.stage import Kind, Ref
from nemo_srlm.launch.plan import Step, fuse, step_of
from nemo_srlm.launch.slurm.client import Task
from nemo_srlm.stages import load

FOLDER = "slurm"  # in the run directory: all that concerns the jobs
SUPERVISOR = "supervisor"
MARK = "nemo_srlm"

Role = Literal["work", "finish", "supervise", "check"]  # check: of the nodes, for all jobs of a kind


@dataclass(frozen=True)
class Job:
    """A job to be submitted. `shards` are the tasks of its array, () where it is none; task k is shard `offset` + k."""

    key: str
    role: Role
    refs: tuple[Ref, ...]
    kind: Kind
    shards: tuple[int, ...]
    num_shards: int
    after: tuple[str, ...]  # keys of the jobs of this plan whose success (supervisor: end) it waits for
    after_ids: tuple[str, ...] = ()  # and jobs that are queued or running already
    offset: int = 0

    @property
    def array(self) -> str:
        """Slurm's --array: `0-7`, `3,5`."""
        tasks = [shard - self.offset for shard in self.shards]
        if len(tasks) > 1 and tasks == [*range(tasks[0], tasks[-1] + 1)]:
            return f"{tasks[0]}-{tasks[-1]}"
        return ",".join(map(str, tasks))

    @property
    def count(self) -> int:
        """As how many jobs Slurm counts it."""
        return max(1, len(self.shards))

    def part(self, start: int, end: int, most: int) -> "Job":
        """The array of its shards[start:end]. Where an index would not be below `most`, indices begin at 0."""
        shards = self.shards[start:end]
        return replace(self, shards=shards, offset=shards[0] if shards[-1] >= most else 0)

    def split(self, most: int) -> Iterator["Job"]:
        """Itself, or arrays of at most `most` tasks with indices below `most`."""
        if not self.shards or (self.count <= most and self.shards[-1] < most):
            yield self
            return
        start = 0
        while start < self.count:
            end = start
            while end < self.count and self.shards[end] - self.shards[start] < most:
                end += 1
            yield self.part(start, end, most)
            start = end

    def __str__(self) -> str:
        return " ".join(map(str, self.refs)) or self.key


def key_of(step: Step) -> str:
    first = step.refs[0]
    return f"iter{first.iteration}-{first.stage}"


def directory(run_dir: Path, key: str) -> Path:
    """The folder of a job's settings, logs and attempts."""
    return run_dir / FOLDER / key


@dataclass(frozen=True)
class Active:
    """A job that is queued or running. `tasks`: shard (0 for a job that is no array) -> id."""

    role: Role
    refs: tuple[Ref, ...]
    tasks: Mapping[int, str]


def steps_of(cfg: Config, refs: list[Ref]) -> list[Step]:
    return fuse(cfg, refs) if cfg.cluster.fuse else [step_of(cfg, ref) for ref in refs]


def build(
    cfg: Config, todo: list[Ref], active: list[Active], done_shards: Callable[[Ref, int], Collection[int]]
) -> list[Job]:
    """The missing jobs, each after the jobs that it waits for.

    `todo`: the unfinished stages, in the pipeline's order. `done_shards(ref, n)`: shards of n that are complete.
    """
    ending = {  # stage -> ids of the active job that finishes it
        ref: tuple(job.tasks.values())
        for job in active
        for ref in job.refs
        if job.role == "finish" or (job.role == "work" and not is_sharded(cfg, job.refs))
    }
    running_shards = {job.refs[0]: job.tasks for job in active if job.role == "work" and is_sharded(cfg, job.refs)}
    jobs: list[Job] = []
    produced: dict[Ref, str] = {}  # stage -> key of the new job that finishes it
    for step in steps_of(cfg, [ref for ref in todo if ref not in ending]):
        key, first = key_of(step), step.refs[0]
        inputs = [r for ref in step.refs for r in load(ref.stage).inputs(cfg, ref.iteration).values()]
        after = tuple(dict.fromkeys(produced[r] for r in inputs if r in produced))
        after_ids = tuple(dict.fromkeys(i for r in inputs for i in ending.get(r, ())))
        if step.num_shards == 1:
            jobs.append(Job(key, "work", step.refs, step.kind, (), 1, after, after_ids))
        else:
            running = running_shards.get(first, {})
            finished = done_shards(first, step.num_shards)
            missing = tuple(k for k in range(step.num_shards) if k not in running and k not in finished)
            if missing:
                jobs.append(Job(key, "work", step.refs, step.kind, missing, step.num_shards, after, after_ids))
            own = (key,) if missing else after
            ids = tuple(running.values()) or (() if missing else after_ids)
            jobs.append(Job(f"{key}-finish", "finish", step.refs, "cpu", (), step.num_shards, own, ids))
        produced |= dict.fromkeys(step.refs, jobs[-1].key)
    return jobs


def with_checks(jobs: list[Job], active: list[Active], passed: Collection[Kind]) -> list[Job]:
    """Adds a job per kind of stage that checks its nodes, unless they have `passed`; the work of this kind waits for it."""
    checking = {load(one.refs[0].stage).kind: tuple(one.tasks.values()) for one in active if one.role == "check"}
    checks: dict[Kind, Job] = {}
    out = []
    for job in jobs:
        if job.role != "work" or job.kind in passed:
            out.append(job)
        elif job.kind in checking:
            out.append(replace(job, after_ids=(*job.after_ids, *checking[job.kind])))
        else:
            checks.setdefault(job.kind, Job(f"check-{job.kind}", "check", job.refs[:1], job.kind, (), 1, ()))
            out.append(replace(job, after=(*job.after, checks[job.kind].key)))
    return [*checks.values(), *out]


def is_sharded(cfg: Config, refs: Sequence[Ref]) -> bool:
    return len(refs) == 1 and load(refs[0].stage).shards(cfg) > 1


def with_supervisor(jobs: list[Job], active: list[Active]) -> list[Job]:
    """Adds the supervisor's job. It waits for the end of every job that no other job waits for."""
    waited = {key for job in jobs for key in job.after} | {i for job in jobs for i in job.after_ids}
    ends = tuple(job.key for job in jobs if job.key not in waited)
    ids = tuple(i for job in active if job.role != "supervise" for i in job.tasks.values() if i not in waited)
    return [*jobs, Job(SUPERVISOR, "supervise", (), "cpu", (), 1, ends, ids)]


def title(run_dir: Path, key: str) -> str:
    """The job's name in Slurm."""
    return f"{run_dir.name}/{key}"


def comment(run_dir: Path, job: Job) -> str:
    """The job's comment names run and stages, so that a job is found again even when its id was not recorded."""
    role = f"{job.role}+{job.offset}" if job.offset else job.role
    return f"{MARK} {role} {','.join(map(str, job.refs)) or job.key} {run_dir.resolve()}"


ROLES: dict[str, Role] = {"work": "work", "finish": "finish", "supervise": "supervise", "check": "check"}


def active_of(run_dir: Path, found: Sequence[Task], recorded: Mapping[str, str] = {}) -> list[Active]:
    """This run's queued and running jobs, by their comments.

    `recorded`: id -> comment of the jobs that were submitted, for sites that replace comments. Such a job also has its name.
    """
    tasks: dict[tuple[str, str, str], dict[int, str]] = {}
    for one in found:
        job, _, task = one.id.partition("_")
        ours = job in recorded and one.name.startswith(title(run_dir, ""))
        words = (recorded[job] if ours else one.comment).split(" ", 3)
        if one.active and words[0] == MARK and len(words) == 4 and words[3] == str(run_dir.resolve()):
            role, _, offset = words[1].partition("+")
            # two arrays of one stage may be active: shards 0-7, and 3 again
            known = tasks.setdefault((role, words[2], job if not task else ""), {})
            known[int(task or 0) + int(offset or 0)] = one.id
    return [
        Active(ROLES[role], () if role == "supervise" else tuple(map(Ref.parse, refs.split(","))), ids)
        for (role, refs, _), ids in tasks.items()
    ]
