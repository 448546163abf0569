"""What Slurm adds to a run's status: queued, running, failed and cancelled jobs with reason, node, id and log."""

import shlex
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from nemo_srlm.core.files import read_json
from nemo_srlm.core.progress import read_progress
from nemo_srlm.core.stage import Ref, stage_directory
from nemo_srlm.errors import of_system
from nemo_srlm.launch import local
from nemo_srlm.launch.plan import is_done
from nemo_srlm.launch.slurm import client, jobs
from nemo_srlm.launch.slurm.client import Task
from nemo_srlm.launch.slurm.jobs import FOLDER
from nemo_srlm.launch.slurm.shards import shard_mark
from nemo_srlm.launch.slurm.submit import CANCELLED, SUBMIT, SUPERVISION, Submitted, newest_of, record_of
from nemo_srlm.launch.slurm.supervise import attempts_of, failures_of, outcome_of
from nemo_srlm.report import status
from nemo_srlm.report.display import progress_words
from nemo_srlm.report.status import Look, Row

OUT_OF_MEMORY = "out of memory"
GONE = "gone"  # the state of a job that Slurm no longer knows: not the same as one that has failed
FAILURES = {
    "TIMEOUT": "it did not save before its time limit", "NODE_FAIL": "its node died", "OUT_OF_MEMORY": OUT_OF_MEMORY,
    "PREEMPTED": "preempted, and the site does not requeue: the supervisor submits it again",
}  # fmt: skip
PENDING = {
    "BeginTime": "requeued, waits for Slurm's delay", "JobHeldAdmin": "held (scontrol release)",
    "JobHeldUser": "held (scontrol release)",
}  # fmt: skip


@dataclass(frozen=True)
class Known:
    """All that is known of a submitted job, or of one task of an array."""

    job: Submitted
    shard: int
    id: str
    state: str  # Slurm's, or GONE
    reason: str
    nodes: str
    seconds: float | None
    outcome: str  # of its newest attempt (attempts-*.tsv)
    detail: str
    past: tuple[str, ...] = ()  # what failed where in its earlier attempts

    @property
    def running(self) -> bool:
        return self.state in client.ACTIVE and self.state != "PENDING"

    @property
    def queued(self) -> bool:
        return self.state == "PENDING"

    @property
    def cancelled(self) -> bool:
        return self.state == "CANCELLED"

    @property
    def failed(self) -> bool:
        if self.state == GONE:
            return self.outcome in ("failed", "user")
        return self.state not in client.ACTIVE and self.state != "COMPLETED" and not self.cancelled

    @property
    def why(self) -> str:
        """Why it failed."""
        if self.outcome in ("failed", "user", "limit"):
            unnamed = self.state == "OUT_OF_MEMORY" and OUT_OF_MEMORY not in self.detail
            return f"{OUT_OF_MEMORY} ({self.nodes or 'no node'}): {self.detail}" if unnamed else self.detail
        words = FAILURES.get(self.state, f"{self.state.lower()}, no reason recorded")
        return f"{words} ({self.nodes or 'no node'})"

    @property
    def history(self) -> str:
        """`; before: crashed on n1 (...), moved away from n1`; "" where nothing failed before."""
        return f"; before: {', '.join(self.past)}" if self.past else ""

    def log(self, run_dir: Path) -> Path:
        return jobs.directory(run_dir, self.job.key) / f"log-{self.id}.txt"


def known_of(run_dir: Path, records: list[Submitted], now: dict[str, Task], past: dict[str, str]) -> list[Known]:
    """The newest job of every (key, shard). `now`: what the controller says; `past`: what the accounting database says."""
    out = []
    for (_, shard), job in newest_of(records).items():
        name = job.id_of(shard)
        attempts = attempts_of(run_dir, job, shard)
        outcome, detail = outcome_of(attempts)
        # an array whose tasks were cancelled one by one before they began is listed without them
        t = now.get(name) or now.get(job.id) or Task(name, past.get(name, GONE), "", "", "", None)
        out.append(
            Known(job, shard, name, t.state, t.reason, t.nodes, t.seconds, outcome, detail, failures_of(attempts))
        )
    return out


def cause(one: Known, every: list[Known], run_dir: Path) -> str:
    """Why a job was cancelled: a person, or the failure of a job that it depends on, directly or not."""
    if (run_dir / FOLDER / CANCELLED).exists():
        return "by `nemo-srlm cancel`"
    seen, level = set(), list(one.job.after)
    while level:
        above = [k for k in every if k.id in level or k.job.id in level]
        for k in above:
            if k.failed and k.job.role == "check":
                return f"because {k.job.key} failed (job {k.id}): {k.why}"
            if k.failed:
                return f"because {' '.join(k.job.refs)} failed (job {k.id})"
        seen |= set(level)
        level = [i for k in above for i in k.job.after if i not in seen]
    return "by a person (scancel)"


def overlay(row: Row, every: list[Known], run_dir: Path) -> Row:
    """The row of a stage that is not done, with what is known of its jobs. Running comes before failed, then queued."""
    ref = Ref.parse(row.stage)
    own = [k for k in every if row.stage in k.job.refs and k.job.role != "check"]
    work = [k for k in own if k.job.role == "work" and not _complete(k, ref, run_dir)] or own
    if not work:
        return row
    shards = _counts(work, max(k.job.num_shards for k in own))
    if found := [k for k in work if k.running]:
        return _running(row, ref, found, shards, run_dir)
    if found := [k for k in work if k.failed]:
        return _failed(row, found, shards, run_dir)
    if found := [k for k in work if k.queued]:
        words = _pending(found[0], every) + shards + next((k.history for k in found if k.past), "")
        return replace(row, state="queued", seconds=None, words=words, job=_ids(found))
    if found := [k for k in work if k.cancelled]:
        words = cause(found[0], every, run_dir)
        return replace(row, state="cancelled", seconds=None, words=words, job=_ids(found))
    ended = work[0].outcome or work[0].state.lower()
    words = f"its job has ended ({ended}) and the stage is not done: submit again"
    return replace(row, state="stopped", seconds=None, words=words, job=_ids(work))


def _counts(work: list[Known], num_shards: int) -> str:
    """`  [1 running, 2 queued of 4 shards]`; "" for a stage that is not sharded."""
    if num_shards == 1 or work[0].job.role != "work":
        return ""
    numbers = {
        "running": sum(k.running for k in work), "queued": sum(k.queued for k in work),
        "failed": sum(k.failed for k in work), "cancelled": sum(k.cancelled for k in work),
    }  # fmt: skip
    return f"  [{', '.join(f'{number} {state}' for state, number in numbers.items() if number)} of {num_shards} shards]"


def _running(row: Row, ref: Ref, found: list[Known], shards: str, run_dir: Path) -> Row:
    current = _current(found[0].job, run_dir)
    if row.stage != current:
        return replace(row, state="queued", seconds=None, words=f"after {current} in the same job", job=found[0].id)
    progress = read_progress(stage_directory(run_dir, ref))
    words = progress_words(progress) if progress else "starting"
    if found[0].job.role == "finish":
        words = "writing the manifest"
    nodes = ",".join(dict.fromkeys(k.nodes for k in found if k.nodes))
    seconds = max((k.seconds for k in found if k.seconds is not None), default=None)
    failed_before = next((k.history for k in found if k.past), "")
    return replace(
        row, state="running", seconds=seconds, words=words + shards + failed_before, job=_ids(found), node=nodes
    )


def _failed(row: Row, found: list[Known], shards: str, run_dir: Path) -> Row:
    first = found[0]
    current = _current(first.job, run_dir)
    if row.stage != current:
        return replace(row, state="cancelled", seconds=None, words=f"because {current} failed", job=first.id)
    full = of_system(None, run_dir) if not first.detail else None  # on a full disk no reason can be written down
    words = f"{full or first.why}{first.history}{shards}  (log: {first.log(run_dir)})"
    return replace(row, state="failed", seconds=None, words=words, job=_ids(found), node=first.nodes)


def _pending(one: Known, every: list[Known]) -> str:
    """Why a job is still queued."""
    if one.reason == "Dependency":
        above = [k.job for k in every if k.id in one.job.after or k.job.id in one.job.after]
        refs = (job.key if job.role == "check" else job.refs[-1] for job in above)
        return f"after {' '.join(dict.fromkeys(refs))}"
    held = " (submit again: that releases it)" if client.held_by_slurm(one.reason) else ""
    return PENDING.get(one.reason, one.reason) + held


def _complete(one: Known, ref: Ref, run_dir: Path) -> bool:
    mark = shard_mark(run_dir, ref, one.shard, one.job.num_shards)
    return one.state == "COMPLETED" or (one.job.num_shards > 1 and mark.exists())


def _current(job: Submitted, run_dir: Path) -> str:
    """The first unfinished stage of a job of several stages."""
    unfinished = (ref for ref in job.refs if not is_done(run_dir, Ref.parse(ref)))
    return next(unfinished, job.refs[-1])


def _ids(found: list[Known]) -> str:
    first = found[0].id
    return first if len(found) == 1 else f"{first} +{len(found) - 1}"


def notes_of_supervisor(run_dir: Path) -> list[str]:
    path = run_dir / FOLDER / SUPERVISION
    return [f"supervisor: {entry['words']}" for entry in read_json(path)] if path.exists() else []


def supervision_ended(run_dir: Path, supervisor: Known) -> bool:
    """Whether the newest supervisor failed. Slurm forgets an ended job after minutes: then by what it has written down."""
    if supervisor.state != GONE:
        return supervisor.failed
    path = run_dir / FOLDER / SUPERVISION
    entries = read_json(path) if path.exists() else []
    own = [entry for entry in entries if entry["time"] >= supervisor.job.time]
    return not (run_dir / FOLDER / CANCELLED).exists() and (not own or own[-1].get("failed", False))


def notes_of_jobs(run_dir: Path, every: list[Known], supervisor: Known | None) -> list[str]:
    """Checks of nodes that failed, and a supervisor that did: the jobs that no stage's row shows."""
    notes = [
        f"{k.job.key}: {k.why}{k.history}  (log: {k.log(run_dir)})" for k in every if k.job.role == "check" and k.failed
    ]
    if supervisor is not None and supervision_ended(run_dir, supervisor):
        command = shlex.join(["nemo-srlm", *read_json(run_dir / FOLDER / SUBMIT)["argv"][1:]])
        how = "is gone" if supervisor.state == GONE else "failed"
        notes.append(
            f"supervisor: its job {supervisor.id} {how}, and nothing submits what is left; see {supervisor.log(run_dir)}, "
            f"and go on by hand: {command}"
        )
    return notes


def ask(run_dir: Path, finished: Collection[str], left: bool) -> tuple[list[Known], list[str]]:
    """(what is known of the run's jobs, but not of those whose stages are all `finished`; notes). When Slurm does not answer:
    nothing is known, and a note says so. `left`: whether stages are unfinished."""
    records = [r for r in record_of(run_dir) if r.role in ("check", "supervise") or not set(r.refs) <= set(finished)]
    notes = notes_of_supervisor(run_dir)
    try:
        now = {task.id: task for task in client.mine(client.STATUS_SECONDS)}
    except client.SlurmError as error:
        return [], [*notes, f"Slurm does not answer ({error.found}): this status is from the files alone"]
    wanted = [r.id_of(k) for r in records for k in (r.shards or [0])]
    past = client.accounted([i for i in wanted if i not in now])
    every = known_of(run_dir, records, now, past)
    stages = [k for k in every if k.job.role != "supervise"]
    supervisor = next((k for k in every if k.job.role == "supervise"), None) if left else None
    return stages, [*notes, *notes_of_jobs(run_dir, stages, supervisor)]


def rows(look: Look) -> tuple[list[Row], list[str]]:
    """The rows of a run, with what is known of the jobs of stages that are not done, and notes for people."""
    run_dir, found = look.dir, status.rows(look)
    finished = {r.stage for r in found if r.state in ("done", "lost")}
    every, notes = ask(run_dir, finished, left=len(finished) < len(found))
    shown = [r if r.stage in finished else overlay(r, every, run_dir) for r in found]
    return shown, [*notes, *status.notes_of_disk(run_dir)]


def logs(run_dir: Path, ref: Ref) -> list[Path]:
    """Log files of a stage, the oldest first: of its jobs, and of local workers that ran it before."""
    folders = [jobs.directory(run_dir, r.key) for r in record_of(run_dir) if str(ref) in r.refs]
    found = [path for folder in dict.fromkeys(folders) for path in folder.glob("log-*.txt")]
    return sorted([*local.logs(run_dir, ref), *found], key=lambda path: path.stat().st_mtime)
