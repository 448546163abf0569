"""The supervisor: the job that runs after all others and submits again what a node failure left unfinished."""

import time
from pathlib import Path

from nemo_srlm.config.compose import load_resolved_config
from nemo_srlm.core.files import read_json, write_json
from nemo_srlm.errors import LostError
from nemo_srlm.launch.lock import locked
from nemo_srlm.launch.plan import remaining
from nemo_srlm.launch.slurm import jobs
from nemo_srlm.launch.slurm.jobs import FOLDER
from nemo_srlm.launch.slurm.submit import (
    CANCELLED,
    LOCK_SECONDS,
    SUPERVISION,
    Submitted,
    active,
    plan,
    record_of,
    submit_jobs,
)  # fmt: skip


def last_outcome(run_dir: Path, job: Submitted, shard: int = 0) -> tuple[str, str]:
    """(how the job's newest attempt at a shard ended, detail); ("", "") when none has written anything."""
    path = jobs.directory(run_dir, job.key) / f"attempts-{shard}.tsv"
    if not path.exists():
        return "", ""
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    # of this job only: the file also holds the attempts of earlier submissions
    own = [f for f in lines if len(f) >= 5 and f[1].partition(".")[0].partition("_")[0] == job.id]
    return (own[-1][3], own[-1][4]) if own else ("", "")


def final_failures(run_dir: Path) -> list[str]:
    """Failures that another submission would only repeat: the user's mistake, or retries used up."""
    newest: dict[tuple[str, int], Submitted] = {}
    for job in record_of(run_dir):
        for shard in job.shards or [0]:
            newest[job.key, shard] = job
    out = []
    for (key, shard), job in newest.items():
        word, detail = last_outcome(run_dir, job, shard)
        if word in ("user", "failed"):
            out.append(f"{key}{f' shard {shard}' if job.shards else ''}: {detail}")
    return out


def supervise(run_dir: Path) -> str:
    """Runs when all jobs have ended: submits again what a node failure left unfinished, at most cluster.max_replans times.

    Returns what it did and why, in words.
    """
    cfg = load_resolved_config(run_dir)
    with locked(run_dir, LOCK_SECONDS):
        path = run_dir / FOLDER / SUPERVISION
        past = read_json(path) if path.exists() else []
        try:
            todo, lost = remaining(cfg, run_dir), ""
        except LostError as error:
            todo, lost = [], str(error)
        running = [job for job in active(run_dir) if job.role != "supervise"]
        failed = final_failures(run_dir)
        replans = sum(entry["replanned"] for entry in past)
        again = False
        if lost:
            words = f"stopped: {lost}"
        elif not todo:
            words = "the run is done"
        elif (run_dir / FOLDER / CANCELLED).exists():
            words = "cancelled by its user"
        elif failed:
            words = "stopped: " + "; ".join(failed)
        elif replans >= cfg.cluster.max_replans:
            words = f"{len(todo)} unfinished stages after {replans} further submissions (cluster.max_replans)"
        else:
            missing = plan(cfg, run_dir, running)
            submit_jobs(cfg, run_dir, missing)
            again, words = True, f"submitted {len(missing)} jobs again for {len(todo)} unfinished stages"
        write_json(path, [*past, {"time": time.time(), "replanned": again, "words": words}])
        return words
