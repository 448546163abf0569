"""What Slurm adds to a run's status: queued, running, failed and cancelled jobs with reason, node, id and log."""

from dataclasses import dataclass, replace
from pathlib import Path

from nemo_srlm.core.files import read_json
from nemo_srlm.core.progress import read_progress
from nemo_srlm.core.stage import Ref, stage_directory
from nemo_srlm.launch import local
from nemo_srlm.launch.plan import is_done
from nemo_srlm.launch.slurm import client, jobs
from nemo_srlm.launch.slurm.client import Element
from nemo_srlm.launch.slurm.jobs import FOLDER
from nemo_srlm.launch.slurm.shards import shard_mark
from nemo_srlm.launch.slurm.submit import CANCELLED, SUPERVISION, Submitted, record_of
from nemo_srlm.launch.slurm.supervise import last_outcome
from nemo_srlm.report import status
from nemo_srlm.report.display import progress_words
from nemo_srlm.report.status import Row

GONE = "gone"  # a job that Slurm no longer knows: not the same as one that has failed


@dataclass(frozen=True)
class Part:
    """A job, or one element of an array, with all that is known of it."""

    job: Submitted
    shard: int
    id: str
    state: str  # Slurm's word; GONE
    reason: str
    nodes: str
    seconds: float | None
    word: str  # how its newest attempt ended (attempts-*.tsv)
    detail: str

    @property
    def failed(self) -> bool:
        if self.state == GONE:
            return self.word in ("failed", "user")
        return self.state not in client.ACTIVE and self.state not in ("COMPLETED", "CANCELLED", "PREEMPTED")

    @property
    def why(self) -> str:
        if self.word in ("failed", "user"):
            return self.detail
        words = {"TIMEOUT": "it did not save before its time limit", "NODE_FAIL": "its node died",
                 "OUT_OF_MEMORY": "out of memory"}.get(self.state, f"{self.state.lower()} without a word")  # fmt: skip
        return f"{words} ({self.nodes or 'no node'})"

    def log(self, run_dir: Path) -> Path:
        return jobs.directory(run_dir, self.job.key) / f"log-{self.id}.txt"


def parts_of(run_dir: Path, records: list[Submitted], known: dict[str, Element], old: dict[str, str]) -> list[Part]:
    """The newest job of every (key, shard). `known`: what the controller says; `old`: what accounting says."""
    newest = {(job.key, shard): job for job in records for shard in job.shards or [-1]}
    out = []
    for (_, shard), job in newest.items():
        name = job.id if shard < 0 else f"{job.id}_{shard}"
        word, detail = last_outcome(run_dir, job, max(shard, 0))
        # an array whose elements were cancelled one by one before they began is listed without them
        e = known.get(name) or known.get(job.id) or Element(name, old.get(name, GONE), "", "", "", None)
        out.append(Part(job, max(shard, 0), name, e.state, e.reason, e.nodes, e.seconds, word, detail))
    return out


def cause(part: Part, parts: list[Part], run_dir: Path) -> str:
    """Why a job was cancelled: the failure at the root of its dependencies, or a person."""
    if (run_dir / FOLDER / CANCELLED).exists():
        return "by `nemo-srlm cancel`"
    seen, level = set(), list(part.job.after)
    while level:
        above = [p for p in parts if p.id in level or p.job.id in level]
        for p in above:
            if p.failed:
                return f"because {' '.join(p.job.refs)} failed (job {p.id})"
        seen |= set(level)
        level = [i for p in above for i in p.job.after if i not in seen]
    return "by somebody (scancel)"


def names(ids: list[str], parts: list[Part]) -> str:
    return " ".join(dict.fromkeys(r for p in parts if p.id in ids or p.job.id in ids for r in p.job.refs[-1:]))


def overlay(row: Row, parts: list[Part], run_dir: Path) -> Row:
    """The row of a stage that is not done, with what Slurm knows about it."""
    ref = Ref.parse(row.stage)
    own = [p for p in parts if row.stage in p.job.refs]
    work = [p for p in own if p.job.role == "work" and not _complete(p, ref, run_dir)] or own
    if not work:
        return row
    running = [p for p in work if p.state in client.ACTIVE and p.state != "PENDING"]
    failed = [p for p in work if p.failed]
    queued = [p for p in work if p.state == "PENDING"]
    cancelled = [p for p in work if p.state in ("CANCELLED", "PREEMPTED")]
    counts = ", ".join(
        f"{len(found)} {name}"
        for name, found in (("running", running), ("queued", queued), ("failed", failed), ("cancelled", cancelled))
        if found
    )
    total = max(p.job.num_shards for p in own)
    shards = f"  [{counts} of {total} shards]" if total > 1 and work[0].job.role == "work" else ""
    if running:
        first = _first_open(running[0].job, run_dir)
        if row.stage != first:
            return replace(row, state="queued", seconds=None, words=f"after {first} in the same job", job=running[0].id)
        progress = read_progress(stage_directory(run_dir, ref))
        words = progress_words(progress) if progress else "starting"
        if running[0].job.role == "finish":
            words = "writing the manifest"
        nodes = ",".join(dict.fromkeys(p.nodes for p in running if p.nodes))
        seconds = max((p.seconds for p in running if p.seconds is not None), default=None)
        return replace(row, state="running", seconds=seconds, words=words + shards, job=_ids(running), node=nodes)
    if failed:
        worst = failed[0]
        first = _first_open(worst.job, run_dir)
        if row.stage != first:
            return replace(row, state="cancelled", seconds=None, words=f"because {first} failed", job=worst.id)
        words = f"{worst.why}{shards}  (log: {worst.log(run_dir)})"
        return replace(row, state="failed", seconds=None, words=words, job=_ids(failed), node=worst.nodes)
    if queued:
        above = names(queued[0].job.after, parts)
        words = {
            "Dependency": f"after {above}", "BeginTime": "requeued, waits for Slurm's delay",
            "JobHeldAdmin": "held (scontrol release)", "JobHeldUser": "held (scontrol release)",
        }.get(queued[0].reason, queued[0].reason)  # fmt: skip
        if "requeued_held" in queued[0].reason.replace(" ", "_"):
            words += " (scontrol release)"
        return replace(row, state="queued", seconds=None, words=words + shards, job=_ids(queued))
    if cancelled:
        words = cause(cancelled[0], parts, run_dir)
        return replace(row, state="cancelled", seconds=None, words=words, job=_ids(cancelled))
    gone = work[0]
    words = f"its job has ended ({gone.word or gone.state.lower()}) and the stage is not done: submit again"
    return replace(row, state="stopped", seconds=None, words=words, job=_ids(work))


def _complete(part: Part, ref: Ref, run_dir: Path) -> bool:
    return part.state == "COMPLETED" or (
        part.job.num_shards > 1 and shard_mark(run_dir, ref, part.shard, part.job.num_shards).exists()
    )


def _first_open(job: Submitted, run_dir: Path) -> str:
    """The stage at which a job of several stages stands."""
    left = (r for r in job.refs if not is_done(run_dir, Ref.parse(r)))
    return next(left, job.refs[-1])


def _ids(parts: list[Part]) -> str:
    first = parts[0].id
    return first if len(parts) == 1 else f"{first} +{len(parts) - 1}"


def notes_of_supervisor(run_dir: Path) -> list[str]:
    path = run_dir / FOLDER / SUPERVISION
    return [f"supervisor: {entry['words']}" for entry in read_json(path)] if path.exists() else []


def look(run_dir: Path) -> tuple[list[Part], list[str]]:
    """(jobs and elements, notes). Without an answer from Slurm: no parts, and a note that says so."""
    records = [r for r in record_of(run_dir) if r.role != "supervise"]
    notes = notes_of_supervisor(run_dir)
    try:
        known = {e.id: e for e in client.mine(client.GLANCE)}
    except client.SlurmError as error:
        return [], [*notes, f"Slurm does not answer ({error.found}): this is what the files say"]
    wanted = [f"{r.id}_{k}" if r.shards else r.id for r in records for k in (r.shards or [0])]
    old = client.accounted([i for i in wanted if i not in known])
    return parts_of(run_dir, records, known, old), notes


def rows(run_dir: Path) -> tuple[list[Row], list[str]]:
    """The rows of a run with Slurm's knowledge laid over those that are not done, and notes for people."""
    found = status.rows(run_dir)
    parts, notes = look(run_dir)
    return [r if r.state == "done" else overlay(r, parts, run_dir) for r in found], notes


def logs(run_dir: Path, ref: Ref) -> list[Path]:
    """Log files of a stage, the oldest first: of its jobs, and of local workers that ran it before."""
    folders = [jobs.directory(run_dir, r.key) for r in record_of(run_dir) if str(ref) in r.refs]
    found = [path for folder in dict.fromkeys(folders) for path in folder.glob("log-*.txt")]
    return sorted([*local.logs(run_dir, ref), *found], key=lambda path: path.stat().st_mtime)
