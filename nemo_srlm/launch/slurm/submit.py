"""Submits what is missing of a run, once: under a lock, after a look at what is queued or running already."""

import fcntl
import getpass
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemo_srlm.config.compose import load_resolved_config, save_resolved_config
from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core import files, manifest
from nemo_srlm.core.stage import Ref, run_directory
from nemo_srlm.errors import UserError
from nemo_srlm.launch.plan import remaining
from nemo_srlm.launch.slurm import client, jobs
from nemo_srlm.launch.slurm.jobs import FOLDER, Active, Job, Role
from nemo_srlm.launch.slurm.step import done_shards

RECORD = "jobs.json"  # every job that was submitted for the run
SUBMIT = "submit.json"  # what the last submission froze beside the config
CANCELLED = "cancelled"  # present after `nemo-srlm cancel`: the supervisor keeps still
SUPERVISION = "supervision.json"  # what the supervisor did and why
LOCK_SECONDS = 60.0


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


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """One launcher at a time in a run directory, the local one included; a second submission waits its turn."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("w") as f:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise UserError(
                        run_dir, "another `nemo-srlm` is at work here", remedy="wait for it, or look with `status`"
                    ) from error
                time.sleep(0.2)
        yield


def record_of(run_dir: Path) -> list[Submitted]:
    path = run_dir / FOLDER / RECORD
    if not path.exists():
        return []
    return [Submitted(**data) for data in json.loads(path.read_text(encoding="utf-8"))]


def write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def active(run_dir: Path) -> list[Active]:
    """What is queued or running for this run. Raises SlurmError when that cannot be known."""
    return jobs.active_of(run_dir, client.mine())


def refuse_if_active(run_dir: Path) -> None:
    """For the local launcher: two writers in one run would be one too many. Raises UserError."""
    if not (run_dir / FOLDER / RECORD).exists():
        return
    try:
        at_work = [job for job in active(run_dir) if job.role != "supervise"]
    except client.SlurmError as error:
        record = run_dir / FOLDER / RECORD
        raise UserError(
            run_dir, f"was submitted to Slurm, and whether its jobs are at work is unknown: {error}",
            remedy=f"ask again later; if none can be, remove {record}",
        ) from error  # fmt: skip
    if at_work:
        ids = ", ".join(i for job in at_work for i in job.elements.values())
        raise UserError(run_dir, f"Slurm jobs {ids} are at work here", remedy="wait, or `nemo-srlm cancel` first")


def plan(cfg: Config, run_dir: Path, at_work: list[Active]) -> list[Job]:
    """The jobs that are missing, supervisor last; [] when nothing is."""
    todo = remaining(cfg, run_dir)
    missing = jobs.build(cfg, todo, at_work, lambda ref, n: done_shards(run_dir, ref, n))
    if missing and cfg.cluster.max_replans > 0:
        return jobs.with_supervisor(missing, at_work)
    return missing


def check_frozen(cfg: Config, run_dir: Path, at_work: list[Active]) -> None:
    """Queued jobs read the frozen config: while there are any, it keeps its meaning. Raises UserError."""
    if not any(job.role != "supervise" for job in at_work) or not (run_dir / "config.yaml").exists():
        return
    old, new = identity(load_resolved_config(run_dir)), identity(cfg)
    if old != new:
        diff = "\n    ".join(manifest.field_diff(old, new))
        raise UserError(
            run_dir, f"its queued and running jobs were submitted under other settings:\n    {diff}",
            remedy="\n  submit with the old settings, or `nemo-srlm cancel` first, or start a new run (run.name=...)",
        )  # fmt: skip


def write_settings(cfg: Config, run_dir: Path, job: Job) -> None:
    folder = jobs.directory(run_dir, job.key)
    folder.mkdir(parents=True, exist_ok=True)
    if job.role != "supervise":
        write_json(folder / "job.json", jobs.settings(cfg, run_dir, job))
        files.write_atomic(folder / "job.env", jobs.shell(cfg, run_dir, job))


def freeze_submission(cfg: Config, run_dir: Path) -> None:
    """What runs is what was submitted: resolved config, commit, environment."""
    save_resolved_config(cfg, run_dir)
    found = manifest.provenance(time.time())
    names = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "LOADEDMODULES", "SLURM_CONF")
    write_json(run_dir / FOLDER / SUBMIT, {
        "commit": found["commit"], "versions": found["versions"], "python": platform.python_version(),
        "interpreter": jobs.python(cfg), "host": platform.node(), "user": getpass.getuser(), "argv": sys.argv,
        "config": jobs.config_digest(cfg), "environment": {n: os.environ[n] for n in names if n in os.environ},
        "time": time.time(),
    })  # fmt: skip


def submit_jobs(cfg: Config, run_dir: Path, missing: list[Job]) -> list[Submitted]:
    """Asks the site about every shape of job first, then submits in order; each id is on disk before the next."""
    shapes: dict[tuple[str, ...], list[str]] = {}
    for job in missing:
        write_settings(cfg, run_dir, job)
        words = jobs.arguments(cfg, run_dir, job, [])
        shapes.setdefault(tuple(w for w in words if not w.startswith(("--job-name", "--comment", "--output"))), words)
    for words in shapes.values():
        client.test_only(words)
    os.environ |= {"NEMO_SRLM_ROOT": str(jobs.ROOT), "PYTHON": sys.executable}  # for the supervisor's iteration.sh
    known, out = record_of(run_dir), []
    ids: dict[str, str] = {}
    for job in missing:
        client.require(job.after_ids)
        after = [*(ids[key] for key in job.after), *job.after_ids]
        ids[job.key] = client.submit(jobs.arguments(cfg, run_dir, job, after))
        out.append(
            Submitted(
                ids[job.key], job.key, job.role, [str(r) for r in job.refs], list(job.shards), job.num_shards, after,
                time.time(),
            )
        )  # fmt: skip
        write_json(run_dir / FOLDER / RECORD, [asdict(s) for s in known + out])
    return out


def submit(cfg: Config) -> tuple[Path, list[Submitted], list[Active]]:
    """(run directory, what was submitted now, what was queued or running before).

    Raises StaleError, UserError and SlurmError before anything is submitted.
    """
    run_dir = run_directory(cfg)
    with locked(run_dir):
        at_work = active(run_dir)
        check_frozen(cfg, run_dir, at_work)
        missing = plan(cfg, run_dir, at_work)
        if not missing:
            return run_dir, [], at_work
        old = [i for job in at_work if job.role == "supervise" for i in job.elements.values()]
        (run_dir / FOLDER / CANCELLED).unlink(missing_ok=True)
        (run_dir / FOLDER / SUPERVISION).unlink(missing_ok=True)  # a person's new start: the supervisor counts anew
        freeze_submission(cfg, run_dir)
        done = submit_jobs(cfg, run_dir, missing)
        client.cancel(old)  # the new supervisor waits for the old jobs too
        return run_dir, done, at_work


def cancel(run_dir: Path) -> list[str]:
    """Cancels every queued and running job of the run. Returns their ids."""
    with locked(run_dir):
        # whole arrays: Slurm forgets the elements that are cancelled one by one
        ids = list(dict.fromkeys(i.partition("_")[0] for job in active(run_dir) for i in job.elements.values()))
        (run_dir / FOLDER).mkdir(exist_ok=True)
        (run_dir / FOLDER / CANCELLED).write_text(f"{time.time()}\n", encoding="utf-8")
        client.cancel(ids)
        return ids


# --- the supervisor -----------------------------------------------------------------------------------------------


def last_word(run_dir: Path, job: Submitted, shard: int = 0) -> tuple[str, str]:
    """(how the newest attempt at a shard ended, detail); ("", "") when none has written anything."""
    path = jobs.directory(run_dir, job.key) / f"attempts-{shard}.tsv"
    if not path.exists():
        return "", ""
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    # of this job: an earlier submission's failure says nothing about this one
    own = [f for f in lines if len(f) >= 5 and f[1].partition(".")[0].partition("_")[0] == job.id]
    return (own[-1][3], own[-1][4]) if own else ("", "")


def verdicts(run_dir: Path) -> list[str]:
    """Failures that another submission would only repeat: a stage's own error or its retries used up."""
    newest: dict[tuple[str, int], Submitted] = {}
    for job in record_of(run_dir):
        for shard in job.shards or [0]:
            newest[job.key, shard] = job
    out = []
    for (key, shard), job in newest.items():
        word, detail = last_word(run_dir, job, shard)
        if word in ("user", "failed"):
            out.append(f"{key}{f' shard {shard}' if job.shards else ''}: {detail}")
    return out


def supervise(run_dir: Path) -> str:
    """Runs when all jobs have ended: submits again what a node failure left, a bounded number of times. Says what."""
    cfg = load_resolved_config(run_dir)
    with locked(run_dir):
        path = run_dir / FOLDER / SUPERVISION
        past = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        todo: list[Ref] = remaining(cfg, run_dir)
        at_work = [job for job in active(run_dir) if job.role != "supervise"]
        failed = verdicts(run_dir)
        replans = sum(entry["replanned"] for entry in past)
        again = False
        if not todo:
            words = "the run is done"
        elif (run_dir / FOLDER / CANCELLED).exists():
            words = "cancelled by its user"
        elif failed:
            words = "stopped: " + "; ".join(failed)
        elif replans >= cfg.cluster.max_replans:
            words = f"{len(todo)} stages are left after {replans} submissions more (cluster.max_replans)"
        else:
            missing = plan(cfg, run_dir, at_work)
            submit_jobs(cfg, run_dir, missing)
            again, words = True, f"submitted {len(missing)} jobs again for {len(todo)} stages"
        write_json(path, [*past, {"time": time.time(), "replanned": again, "words": words}])
        return words
