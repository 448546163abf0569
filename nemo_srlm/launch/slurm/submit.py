"""Submits the missing jobs of a run, each once: under a lock, after a look at what is queued or running already."""

import getpass
import os
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.config.cluster import check_flags
from nemo_srlm.config.compose import load_resolved_config, require_run, save_resolved_config
from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core import manifest
from nemo_srlm.core.commands import about
from nemo_srlm.core.files import decoded, read_json, write_json
from nemo_srlm.core.stage import Kind, run_directory
from nemo_srlm.core.terminal import say
from nemo_srlm.errors import UserError
from nemo_srlm.launch.lock import locked
from nemo_srlm.launch.plan import remaining
from nemo_srlm.launch.slurm import client, jobs, sbatch
from nemo_srlm.launch.slurm.jobs import FOLDER, Active, Job, Role
from nemo_srlm.launch.slurm.limits import Limits
from nemo_srlm.launch.slurm.limits import ask as ask_limits
from nemo_srlm.launch.slurm.shards import done_shards
from nemo_srlm.launch.slurm.site_checks import notes, refuse_problems
from nemo_srlm.launch.slurm.snapshot import code_of

RECORD = "jobs.json"  # every job that was submitted for the run
SUBMIT = "submit.json"  # commit, versions and environment of the last submission
CANCELLED = "cancelled"  # present after `nemo-srlm cancel`: the supervisor submits nothing
SUPERVISION = "supervision.json"  # what the supervisor did and why
LOCK_SECONDS = 60.0  # that a submission waits for another one to end


@dataclass(frozen=True)
class Submitted:
    """A job as it was submitted (jobs.json)."""

    id: str
    key: str
    role: Role
    refs: list[str]
    shards: list[int]
    num_shards: int
    after: list[str]
    time: float
    offset: int = 0
    comment: str = ""

    def id_of(self, shard: int) -> str:
        """Slurm's id of the array task that does a shard."""
        return f"{self.id}_{shard - self.offset}" if self.shards else self.id


def submitted(run_dir: Path) -> bool:
    """Whether jobs were ever submitted for the run."""
    return (run_dir / FOLDER / RECORD).exists()


def record_of(run_dir: Path) -> list[Submitted]:
    path = run_dir / FOLDER / RECORD
    return decoded(read_json(path), list[Submitted], path, "the jobs of a submission") if submitted(run_dir) else []


def newest_of(records: Sequence[Submitted]) -> dict[tuple[str, int], Submitted]:
    """The job that was submitted last for every (key, shard); shard 0 of a job that is no array.

    Not those of a division into jobs or shards that a later submission has replaced: of judge.shards=8 before it was 4, of stages
    that shared a job with one that is done.
    """
    division = {
        ref: (job.refs, job.num_shards) for job in records if job.role in ("work", "finish") for ref in job.refs
    }
    return {
        (job.key, shard): job
        for job in records
        if job.role in ("check", "supervise") or all(division[ref] == (job.refs, job.num_shards) for ref in job.refs)
        for shard in job.shards or [0]
    }


def active(run_dir: Path) -> list[Active]:
    """What is queued or running for this run. Raises SlurmError when that cannot be known."""
    return active_among(run_dir, client.mine())


def active_among(run_dir: Path, found: Sequence[client.Task]) -> list[Active]:
    return jobs.active_of(run_dir, found, {job.id: job.comment for job in record_of(run_dir) if job.comment})


def release_held(running: Sequence[Active], found: Sequence[client.Task]) -> None:
    """Lets the run's jobs go on that Slurm has held by itself: all others wait for them without end, the supervisor too."""
    own = {i for job in running for i in job.tasks.values()}
    if held := [task.id for task in found if task.id in own and client.held_by_slurm(task.reason)]:
        client.release(held)
        say(f"released {' '.join(held)}: Slurm held them after a node had failed to start them, or after many requeues")


def refuse_if_active(run_dir: Path) -> None:
    """For the local launcher. Raises UserError while Slurm jobs of the run are queued or running."""
    if not submitted(run_dir):
        return
    try:
        found = [job for job in active(run_dir) if job.role != "supervise"]
    except client.SlurmError as error:
        record = run_dir / FOLDER / RECORD
        raise UserError(
            run_dir, f"was submitted to Slurm, and whether its jobs are running is unknown: {error}",
            remedy=f"try again later; if none can be running, remove {record}",
        ) from error  # fmt: skip
    if found:
        ids = ", ".join(i for job in found for i in job.tasks.values())
        raise UserError(
            run_dir,
            f"Slurm jobs {ids} are already queued or running here",
            remedy=f"wait, or `{about('cancel', run_dir)}` first",
        )


def plan(cfg: Config, run_dir: Path, running: list[Active]) -> list[Job]:
    """The jobs that are missing, supervisor last; [] when nothing is. Raises ConfigError, before that, for what the nodes
    would find hours later: a flag of our own, a file that is not there.
    """
    check_flags(cfg.cluster)
    todo = remaining(cfg, run_dir)
    missing = jobs.build(cfg, todo, running, lambda ref, n: done_shards(run_dir, ref, n))
    if cfg.cluster.check_nodes:
        passed = [kind for kind in get_args(Kind) if nodes_passed(cfg, run_dir, kind, missing)]
        missing = jobs.with_checks(missing, running, passed)
    if missing and cfg.cluster.max_replans > 0:
        return jobs.with_supervisor(missing, running)
    return missing


def nodes_passed(cfg: Config, run_dir: Path, kind: Kind, missing: Sequence[Job]) -> bool:
    """Whether the nodes of a kind of stage were checked under the present settings."""
    path = jobs.directory(run_dir, f"check-{kind}") / sbatch.PASSED
    job = next((job for job in missing if job.role == "work" and job.kind == kind), None)
    return job is None or (path.exists() and path.read_text(encoding="utf-8") == sbatch.nodes_digest(cfg, run_dir, job))


def check_same_settings(cfg: Config, run_dir: Path, running: list[Active]) -> None:
    """Queued jobs read the resolved config, so its identity must not change while there are any. Raises UserError."""
    if not any(job.role != "supervise" for job in running) or not (run_dir / "config.yaml").exists():
        return
    old, new = identity(load_resolved_config(run_dir)), identity(cfg)
    if old != new:
        diff = "\n    ".join(manifest.field_diff(old, new))
        raise UserError(
            run_dir, f"its queued and running jobs were submitted under other settings:\n    {diff}",
            remedy=f"\n  submit with the old settings, or `{about('cancel', run_dir)}` first, or start a new run (run.name=...)",
        )  # fmt: skip


def write_settings(cfg: Config, run_dir: Path, job: Job, code: Path) -> None:
    folder = jobs.directory(run_dir, job.key)
    folder.mkdir(parents=True, exist_ok=True)
    if job.role != "supervise":
        write_json(folder / sbatch.SETTINGS, asdict(sbatch.settings(cfg, run_dir, job)))
        write_atomic(folder / "job.env", sbatch.shell(cfg, run_dir, job, code))


def save_submission(cfg: Config, run_dir: Path) -> None:
    """What runs is what was submitted: resolved config, commit, environment."""
    save_resolved_config(cfg, run_dir)
    (run_dir / FOLDER).mkdir(exist_ok=True)
    found = manifest.provenance(time.time())
    names = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "LOADEDMODULES", "SLURM_CONF")
    write_json(run_dir / FOLDER / SUBMIT, {
        "commit": found["commit"], "versions": found["versions"], "python": platform.python_version(),
        "interpreter": cfg.cluster.python or sys.executable, "host": platform.node(), "user": getpass.getuser(), "argv": sys.argv,
        "config": sbatch.config_digest(cfg), "environment": {n: os.environ[n] for n in names if n in os.environ},
        "time": time.time(),
    })  # fmt: skip


def check_kinds(cfg: Config, run_dir: Path, missing: list[Job]) -> None:
    """Has Slurm check every kind of job. Raises SlurmError for one that it would refuse.

    A job that no node can run while some are down or drained waits for them: before a maintenance, and after a node has died.
    """
    kinds: dict[tuple[str, ...], tuple[Job, list[str]]] = {}
    for job in missing:
        single = replace(job, shards=())
        words = sbatch.arguments(cfg, run_dir, single, [])
        kinds.setdefault(
            tuple(w for w in words if not w.startswith(("--job-name", "--comment", "--output"))), (job, words)
        )
    for job, words in kinds.values():
        try:
            client.test_only(words)
        except client.LimitReached:
            pass  # perhaps there is room when it is submitted
        except client.SlurmError as error:
            partition = sbatch.section(cfg, job).partition or cfg.cluster.partition
            if client.NO_NODES not in error.found or not client.nodes_away(partition):
                raise
            say(f"{job}: no node that is up now can run it; some are down or drained (sinfo -R), and it waits for them")


class Submission:
    """Jobs being submitted, one after another; each id is on disk before the next job is submitted."""

    def __init__(self, cfg: Config, run_dir: Path, code: Path, others: bool) -> None:
        """`others`: whether jobs of the run are queued or running already."""
        self.cfg, self.run_dir, self.code, self.others = cfg, run_dir, code, others
        self.known, self.done = record_of(run_dir), list[Submitted]()
        self.ids: dict[str, list[str]] = {}  # key -> jobs
        self.left = False  # whether jobs remain because Slurm accepts no more now

    @property
    def num_workers(self) -> int:
        return sum(job.role != "supervise" for job in self.done)

    def add(self, job: Job) -> None:
        """Raises LimitReached."""
        client.require(job.after_ids)
        # the supervisor's are known when all others are submitted
        after = [*(i for key in job.after for i in self.ids[key]), *job.after_ids] if job.role != "supervise" else []
        words = sbatch.arguments(self.cfg, self.run_dir, job, after, self.code)
        name = client.submit(words)
        self.ids.setdefault(job.key, []).append(name)
        self.done.append(
            Submitted(
                name, job.key, job.role, [str(r) for r in job.refs], list(job.shards), job.num_shards, after, time.time(),
                job.offset, jobs.comment(self.run_dir, job),
            )
        )  # fmt: skip
        write_json(self.run_dir / FOLDER / RECORD, [asdict(s) for s in self.known + self.done])

    def add_as_accepted(self, job: Job, limits: Limits, room: int) -> int:
        """Submits a job; of an array as much as is accepted. Returns the room that is left; sets `left`."""
        for part in job.split(limits.tasks):
            rest = part
            while not self.left:
                size = min(rest.count, room)
                if size < 1:
                    self.left = True
                    break
                piece = rest.part(0, size, limits.tasks) if rest.shards else rest
                try:
                    self.add(piece)
                except client.LimitReached:
                    if size == 1 and not (self.num_workers or self.others):
                        raise  # no end of a job will make room
                    room = size // 2  # of an array, perhaps a part
                    continue
                room -= size
                if size == rest.count:
                    break
                rest = rest.part(size, rest.count, limits.tasks)
        return room


def submit_jobs(cfg: Config, run_dir: Path, missing: list[Job], running: list[Active]) -> Submission:
    """Submits `missing` in order, as far as Slurm accepts them; the supervisor, which submits the rest, first.

    Raises SlurmError, when nothing of the run is queued or running and nothing more is accepted.
    """
    code = code_of(cfg, run_dir)
    for job in missing:
        write_settings(cfg, run_dir, job, code)
    check_kinds(cfg, run_dir, missing)
    limits = ask_limits(cfg)
    supervised = any(job.role == "supervise" for job in missing)
    room = limits.room(client.mine(), jobs.title(run_dir, jobs.SUPERVISOR) if supervised else "")
    making = Submission(cfg, run_dir, code, any(job.role != "supervise" for job in running))
    for job in missing:
        if job.role == "supervise":
            making.add(job)
    try:
        for job in missing:
            if job.role != "supervise" and not making.left:
                room = making.add_as_accepted(job, limits, room)
        if making.left and not making.others and making.num_workers == 0:
            raise client.LimitReached(
                "Slurm", f"no room for a job{' beside the supervisor' if supervised else ''}: {limits}",
                remedy="wait for your other jobs, or do without a supervisor, which needs room for two: cluster.max_replans=0",
            )  # fmt: skip
    except client.SlurmError:
        if making.num_workers == 0:  # nothing that it would go on with
            with suppress(client.SlurmError):
                client.cancel(making.ids.get(jobs.SUPERVISOR, []))
        raise
    for name in making.ids.get(jobs.SUPERVISOR, []):
        begin_after(name, making, running)
    return making


def begin_after(supervisor: str, making: Submission, running: list[Active]) -> None:
    """Has the supervisor wait for the end of all jobs; where some could not be submitted, for the end of any."""
    own = [job for job in making.done if job.role != "supervise"]
    before = [i for job in running if job.role != "supervise" for i in job.tasks.values()]
    waited = {i for job in own for i in job.after}
    ends = [i for i in (*(job.id for job in own), *before) if making.left or i not in waited]
    fields = {"Dependency": ("?" if making.left else ",").join(f"afterany:{i}" for i in ends)} if ends else {}
    client.update(supervisor, **fields, StartTime="now")


def submit(cfg: Config) -> tuple[Path, list[Submitted], list[Active], bool]:
    """(run directory, what was submitted now, what was queued or running before, whether Slurm accepted all of it).

    Raises StaleError, UserError and SlurmError before anything is submitted.
    """
    run_dir = run_directory(cfg)
    with locked(run_dir, LOCK_SECONDS):
        found = client.mine()
        running = active_among(run_dir, found)
        release_held(running, found)
        check_same_settings(cfg, run_dir, running)
        missing = plan(cfg, run_dir, running)
        if not missing:
            return run_dir, [], running, True
        refuse_problems(cfg, run_dir, missing)
        for note in notes(cfg, missing):
            say(note)
        old = [i for job in running if job.role == "supervise" for i in job.tasks.values()]
        (run_dir / FOLDER / CANCELLED).unlink(missing_ok=True)
        (run_dir / FOLDER / SUPERVISION).unlink(missing_ok=True)  # the supervisor counts its submissions anew
        save_submission(cfg, run_dir)
        making = submit_jobs(cfg, run_dir, missing, running)
        client.cancel(old)  # the new supervisor waits for the old jobs too
        return run_dir, making.done, running, not making.left


def cancel(run_dir: Path) -> list[str]:
    """Cancels every queued and running job of the run. Returns their ids. Raises ConfigError for what is no run's directory:
    nothing is made there."""
    require_run(run_dir)  # a config.yaml that is damaged must not keep jobs running
    with locked(run_dir, LOCK_SECONDS):
        # whole arrays: Slurm forgets the tasks that are cancelled one by one
        ids = list(dict.fromkeys(i.partition("_")[0] for job in active(run_dir) for i in job.tasks.values()))
        (run_dir / FOLDER).mkdir(exist_ok=True)
        (run_dir / FOLDER / CANCELLED).write_text(f"{time.time()}\n", encoding="utf-8")
        client.cancel(ids)
        return ids
