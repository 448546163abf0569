"""The command line's Slurm verbs: plan, submit, cancel, logs."""

import os
import sys
import time
from pathlib import Path

from rich.table import Table

from nemo_srlm.config.schema import Config
from nemo_srlm.core.stage import Ref, run_directory
from nemo_srlm.errors import UserError
from nemo_srlm.launch.slurm import client, jobs, status
from nemo_srlm.launch.slurm import submit as submission
from nemo_srlm.launch.slurm.jobs import Active, Job
from nemo_srlm.report.display import console

FOLLOW_SECONDS = 0.5


def table_of(cfg: Config, missing: list[Job], at_work: list[Active]) -> Table:
    """One row per job: what is queued or running already, then what would be submitted."""
    out = Table(box=None, pad_edge=False)
    for name in ("job", "stages", "kind", "tasks", "nodes x GPUs", "limit", "after"):
        out.add_column(name, overflow="fold")
    for old in at_work:
        ids = " ".join(old.elements.values())
        out.add_row(f"(job {ids})", " ".join(map(str, old.refs)) or jobs.SUPERVISOR, old.role, "", "", "", "")
    for job in missing:
        tasks = f"array {job.array}" if job.shards else "1"
        size = f"{jobs.num_nodes(cfg, job)} x {jobs.num_gpus(cfg, job)}"
        limit = jobs.section(cfg, job).time if job.role == "work" else "01:00:00"
        after = [*job.after, *(f"job {i}" for i in job.after_ids)]
        kind = job.kind if job.role == "work" else job.role
        out.add_row(job.key, str(job), kind, tasks, size, limit, " ".join(after))
    return out


def plan(cfg: Config) -> int:
    """What `submit` would do. Without an answer from Slurm: as if nothing were queued, and it says so."""
    run_dir, screen = run_directory(cfg), console()
    at_work: list[Active] = []
    try:
        at_work = submission.active(run_dir)
    except client.SlurmError as error:
        screen.print(f"{error}: planned as if nothing were queued", style="yellow", markup=False)
    missing = submission.plan(cfg, run_dir, at_work)
    title = f"{run_dir}: {len(missing)} jobs to submit, {len(at_work)} queued or running"
    screen.print(title if missing or at_work else f"{run_dir} is up to date", markup=False)
    if missing or at_work:
        screen.print(table_of(cfg, missing, at_work))
    return 0


def submit(cfg: Config) -> int:
    run_dir, done, before = submission.submit(cfg)
    ids = [i for job in before for i in job.elements.values()]
    if done:
        print(f"{run_dir}: submitted {len(done)} jobs ({done[0].id} to {done[-1].id}), {len(ids)} were there before")
        print("  look with `nemo-srlm status`, stop with `nemo-srlm cancel`")
    elif ids:
        print(f"{run_dir}: nothing to submit; queued or running already: {' '.join(ids)}")
    else:
        print(f"{run_dir} is up to date")
    return 0


def supervise(run_dir: Path) -> int:
    print(submission.supervise(run_dir))
    return 0


def cancel(run_dir: Path) -> int:
    ids = submission.cancel(run_dir)
    print(f"{run_dir}: cancelled {' '.join(ids)}" if ids else f"{run_dir}: nothing is queued or running")
    return 0


def logs(run_dir: Path, ref: Ref, follow: bool) -> int:
    """Prints the newest log of a stage, after the names of all; `follow` goes on as it grows."""
    found = status.logs(run_dir, ref)
    if not found:
        raise UserError(f"{run_dir}/{ref}", "no logs yet", remedy="see `nemo-srlm status`")
    print("\n".join(map(str, found)), file=sys.stderr)
    with found[-1].open("rb") as f:
        while True:
            sys.stdout.buffer.write(f.read())
            sys.stdout.flush()
            if not follow:
                return 0
            time.sleep(FOLLOW_SECONDS)
            os.stat(found[-1])  # it ends with an error, not in silence, when the log is removed
