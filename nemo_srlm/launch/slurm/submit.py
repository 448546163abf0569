"""Submits the missing jobs of a run, each once: under a lock, after a look at what is queued or running already."""

import getpass
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from nemo_srlm.config.compose import load_resolved_config, save_resolved_config
from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.config.shipped import job_directory
from nemo_srlm.core import manifest
from nemo_srlm.core.files import read_json, write_atomic, write_json
from nemo_srlm.core.stage import run_directory
from nemo_srlm.errors import UserError
from nemo_srlm.launch.lock import locked
from nemo_srlm.launch.plan import remaining
from nemo_srlm.launch.slurm import client, jobs, sbatch
from nemo_srlm.launch.slurm.jobs import FOLDER, Active, Job, Role
from nemo_srlm.launch.slurm.shards import done_shards
from nemo_srlm.launch.slurm.site_checks import refuse_problems

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


def submitted(run_dir: Path) -> bool:
    """Whether jobs were ever submitted for the run."""
    return (run_dir / FOLDER / RECORD).exists()


def record_of(run_dir: Path) -> list[Submitted]:
    return [Submitted(**row) for row in read_json(run_dir / FOLDER / RECORD)] if submitted(run_dir) else []


def active(run_dir: Path) -> list[Active]:
    """What is queued or running for this run. Raises SlurmError when that cannot be known."""
    return jobs.active_of(run_dir, client.mine())


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
            run_dir, f"Slurm jobs {ids} are already queued or running here", remedy="wait, or `nemo-srlm cancel` first"
        )


def plan(cfg: Config, run_dir: Path, running: list[Active]) -> list[Job]:
    """The jobs that are missing, supervisor last; [] when nothing is."""
    todo = remaining(cfg, run_dir)
    missing = jobs.build(cfg, todo, running, lambda ref, n: done_shards(run_dir, ref, n))
    if missing and cfg.cluster.max_replans > 0:
        return jobs.with_supervisor(missing, running)
    return missing


def check_same_settings(cfg: Config, run_dir: Path, running: list[Active]) -> None:
    """Queued jobs read the resolved config, so its identity must not change while there are any. Raises UserError."""
    if not any(job.role != "supervise" for job in running) or not (run_dir / "config.yaml").exists():
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
        write_json(folder / sbatch.SETTINGS, asdict(sbatch.settings(cfg, run_dir, job)))
        write_atomic(folder / "job.env", sbatch.shell(cfg, run_dir, job))


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


def submit_jobs(cfg: Config, run_dir: Path, missing: list[Job]) -> list[Submitted]:
    """Has Slurm check every kind of job first, then submits in order; each id is on disk before the next submission."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for job in missing:
        write_settings(cfg, run_dir, job)
        words = sbatch.arguments(cfg, run_dir, job, [])
        kinds.setdefault(tuple(w for w in words if not w.startswith(("--job-name", "--comment", "--output"))), words)
    for words in kinds.values():
        client.test_only(words)
    os.environ |= {
        "NEMO_SRLM_ROOT": str(job_directory()),
        "PYTHON": sys.executable,
    }  # for the supervisor's iteration.sh
    known, out = record_of(run_dir), []
    ids: dict[str, str] = {}
    for job in missing:
        client.require(job.after_ids)
        after = [*(ids[key] for key in job.after), *job.after_ids]
        ids[job.key] = client.submit(sbatch.arguments(cfg, run_dir, job, after))
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
    with locked(run_dir, LOCK_SECONDS):
        running = active(run_dir)
        check_same_settings(cfg, run_dir, running)
        missing = plan(cfg, run_dir, running)
        if not missing:
            return run_dir, [], running
        refuse_problems(cfg, run_dir, missing)
        old = [i for job in running if job.role == "supervise" for i in job.tasks.values()]
        (run_dir / FOLDER / CANCELLED).unlink(missing_ok=True)
        (run_dir / FOLDER / SUPERVISION).unlink(missing_ok=True)  # the supervisor counts its submissions anew
        save_submission(cfg, run_dir)
        done = submit_jobs(cfg, run_dir, missing)
        client.cancel(old)  # the new supervisor waits for the old jobs too
        return run_dir, done, running


def cancel(run_dir: Path) -> list[str]:
    """Cancels every queued and running job of the run. Returns their ids. Raises ConfigError for what is no run's directory:
    nothing is made there."""
    load_resolved_config(run_dir)
    with locked(run_dir, LOCK_SECONDS):
        # whole arrays: Slurm forgets the tasks that are cancelled one by one
        ids = list(dict.fromkeys(i.partition("_")[0] for job in active(run_dir) for i in job.tasks.values()))
        (run_dir / FOLDER).mkdir(exist_ok=True)
        (run_dir / FOLDER / CANCELLED).write_text(f"{time.time()}\n", encoding="utf-8")
        client.cancel(ids)
        return ids
