"""The command line's Slurm verbs: plan, submit, cancel and the supervisor's."""

import os
import time
from pathlib import Path

from rich.table import Table

from nemo_srlm.config.schema import Config
from nemo_srlm.config.shipped import job_directory
from nemo_srlm.core.commands import about
from nemo_srlm.core.stage import run_directory
from nemo_srlm.core.terminal import console, say
from nemo_srlm.errors import UserError
from nemo_srlm.launch.slurm import client, jobs, limits, sbatch
from nemo_srlm.launch.slurm import submit as submission
from nemo_srlm.launch.slurm import supervise as supervisor
from nemo_srlm.launch.slurm.jobs import Active, Job
from nemo_srlm.launch.slurm.site_checks import notes, problems

PATIENCE = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0)  # seconds between the attempts of a supervisor


def table_of(cfg: Config, missing: list[Job], active: list[Active]) -> Table:
    """One row per job: what is queued or running already, then what would be submitted."""
    out = Table(box=None, pad_edge=False)
    for name in ("job", "stages", "kind", "tasks", "nodes x GPUs", "limit", "after"):
        out.add_column(name, overflow="fold")
    for old in active:
        ids = " ".join(old.tasks.values())
        out.add_row(f"(job {ids})", " ".join(map(str, old.refs)) or jobs.SUPERVISOR, old.role, "", "", "", "")
    for job in missing:
        tasks = f"array {job.array}" if job.shards else "1"
        size = f"{sbatch.num_nodes(cfg, job)} x {sbatch.num_gpus(cfg, job)}"
        limit = sbatch.time_limit(cfg, job)
        after = [*job.after, *(f"job {i}" for i in job.after_ids)]
        kind = job.kind if job.role == "work" else job.role
        out.add_row(job.key, str(job), kind, tasks, size, limit, " ".join(after))
    return out


def plan(cfg: Config) -> int:
    """Prints what `submit` would do. When Slurm does not answer: as if nothing were queued, and says so."""
    run_dir, screen = run_directory(cfg), console()
    active: list[Active] = []
    room = ""
    try:
        found = client.mine()
        active = submission.active_among(run_dir, found)
        known = limits.ask(cfg)
        room = f"limits of Slurm: {known}; {sum(task.active for task in found)} of yours are queued or running"
    except client.SlurmError as error:  # what it says is no part of the plan: one line below it
        said = str(error).rpartition("fatal: ")[2]
        room = f"Slurm does not answer here ({said}): planned as if nothing were queued; `nemo-srlm run` needs no Slurm"
    missing = submission.plan(cfg, run_dir, active)
    count = sum(job.count for job in missing)
    counted = f" ({count} with the tasks of arrays)" if count > len(missing) else ""
    title = f"{run_dir}: {len(missing)} jobs to submit{counted}, {len(active)} queued or running"
    screen.print(title if missing or active else f"{run_dir} is up to date", markup=False)
    if missing or active:
        screen.print(table_of(cfg, missing, active))
        screen.print(room, markup=False)
    for problem in problems(cfg, run_dir, missing):
        screen.print(f"submit would refuse: {problem}", style="yellow", markup=False)
    for note in notes(cfg, missing):
        screen.print(note, style="yellow", markup=False)
    return 0


def submit(cfg: Config, until: str) -> int:
    """Submits the whole run. Raises UserError when `until` names a stage to end at."""
    if until:
        raise UserError("--until", f"{until}: Slurm jobs are submitted for the whole run", "--launcher local")
    run_dir, done, before, whole = submission.submit(cfg)
    ids = [i for job in before for i in job.tasks.values()]
    if done:
        say(f"{run_dir}: submitted {len(done)} jobs ({done[0].id} to {done[-1].id}), {len(ids)} were there before")
        if not whole:
            later = "the rest is submitted by the supervisor as room appears (cluster.max_replans)"
            by_hand = "submit again for the rest when these have ended: cluster.max_replans=0, no supervisor does it"
            say(f"  Slurm accepts no more now; {later if cfg.cluster.max_replans else by_hand}")
        say(f"  look with `{about('status', run_dir)}`, stop with `{about('cancel', run_dir)}`")
    elif ids:
        say(f"{run_dir}: nothing to submit; queued or running already: {' '.join(ids)}")
    else:
        say(f"{run_dir} is up to date")
    return 0


def supervise(run_dir: Path) -> int:
    """Asks again while the controller does not answer or other jobs of the user leave no room: without a supervisor nothing
    submits what is left."""
    os.chdir(job_directory())  # its job begins where its copy of the code lies
    for seconds in (*PATIENCE, None):
        try:
            say(supervisor.supervise(run_dir))
            break
        except (client.Unreachable, client.LimitReached) as error:
            if seconds is None:
                raise
            say(f"{error}; again in {seconds:g} s", error=True)
            time.sleep(seconds)
    return 0


def cancel(run_dir: Path) -> int:
    ids = submission.cancel(run_dir)
    say(f"{run_dir}: cancelled {' '.join(ids)}" if ids else f"{run_dir}: nothing is queued or running")
    return 0
