"""The supervisor: the job that runs after all others and submits what node failures or the site's limits left."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nemo_srlm.config.compose import load_resolved_config
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_json, write_json
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.progress import read_progress
from nemo_srlm.core.stage import Ref, stage_directory
from nemo_srlm.errors import LostError, UserError
from nemo_srlm.launch.lock import locked
from nemo_srlm.launch.plan import remaining
from nemo_srlm.launch.slurm import client, jobs
from nemo_srlm.launch.slurm.jobs import FOLDER
from nemo_srlm.launch.slurm.submit import (
    CANCELLED,
    LOCK_SECONDS,
    SUPERVISION,
    Submitted,
    active_among,
    newest_of,
    plan,
    record_of,
    submit_jobs,
)  # fmt: skip


def attempts_of(run_dir: Path, job: Submitted, shard: int) -> list[list[str]]:
    """[time, attempt, nodes, word, detail] of what a job did at a shard; the file also holds earlier submissions' attempts."""
    path = jobs.directory(run_dir, job.key) / f"attempts-{shard}.tsv"
    if not path.exists():
        return []
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [f for f in lines if len(f) >= 5 and f[1].partition(".")[0].partition("_")[0] == job.id]


def last_outcome(run_dir: Path, job: Submitted, shard: int = 0) -> tuple[str, str]:
    """(how the job's newest attempt at a shard ended, detail); ("", "") when none has written anything."""
    return outcome_of(attempts_of(run_dir, job, shard))


def outcome_of(attempts: list[list[str]]) -> tuple[str, str]:
    """(how the newest attempt ended, detail); ("", "") without one."""
    return (attempts[-1][3], attempts[-1][4]) if attempts else ("", "")


def failures_of(attempts: list[list[str]]) -> tuple[str, ...]:
    """What failed where in the attempts: `crashed on n1 (exit code 1)`, `moved away from n1`."""
    own = [f for f in attempts if f[3] in ("crashed", "hung", "moved")]
    words = (
        f"moved {detail.partition(':')[0]}" if word == "moved" else f"{word} on {nodes} ({detail})"
        for _, _, nodes, word, detail, *_ in own
    )
    return tuple(dict.fromkeys(words))


def final_failures(run_dir: Path) -> list[str]:
    """Failures that another submission would only repeat: the user's mistake, or retries used up."""
    out = []
    for (key, shard), job in newest_of(record_of(run_dir)).items():
        word, detail = last_outcome(run_dir, job, shard)
        if word in ("user", "failed"):
            out.append(f"{key}{f' shard {shard}' if job.shards else ''}: {detail}")
    return out


def cancelled_by_hand(run_dir: Path, found: Sequence[client.Task]) -> list[str]:
    """Jobs that a person cancelled: not those that Slurm preempted, or cancelled because of what they depend on.

    The controller forgets ended jobs after minutes (MinJobAge). The accounting database then knows their states, and that
    a job had begun tells that it was not cancelled because of another.
    """
    newest = newest_of(record_of(run_dir))
    states = {task.id: task for task in found}
    begun = {
        job.id_of(shard): key for (key, shard), job in newest.items()
        if job.id_of(shard) not in states and attempts_of(run_dir, job, shard)
    }  # fmt: skip
    forgotten = client.accounted(list(begun), client.SUBMIT_SECONDS)
    known = [
        f"{key} (job {task.id})"
        for (key, shard), job in newest.items()
        if (task := states.get(job.id_of(shard))) is not None
        and task.state == "CANCELLED" and task.reason not in ("DependencyNeverSatisfied", "Dependency")
    ]  # fmt: skip
    return known + [f"{key} (job {name})" for name, key in begun.items() if forgotten.get(name) == "CANCELLED"]


def progress_of(run_dir: Path, cfg: Config, todo: Sequence[Ref]) -> list[float]:
    """How far the run is: stages done, and what the unfinished ones have done. It only grows while work is done."""
    parts = [read_progress(stage_directory(run_dir, ref)) for ref in todo]
    return [float(len(pipeline(cfg)) - len(todo)), sum(float(part["done"]) for part in parts if part)]


def in_vain(past: Sequence[dict[str, Any]], progress: list[float]) -> int:
    """How many submissions of all that was left there were since the run was first as far as it is now.

    What is not saved is done again, and ends here and there: more than the last time alone is no progress.
    """
    before = [entry.get("progress", []) for entry in past if entry["replanned"]]
    return next((len(before) - i for i, done in enumerate(before) if done >= progress), 0)


def supervise(run_dir: Path) -> str:
    """Runs when all jobs have ended, or when there is room for more of them: submits what is left.

    Stops after a failure that another submission would only repeat, and after cluster.max_replans submissions without
    progress between them. Returns what it did and why, in words. Raises SlurmError when the site refuses; LimitReached and
    Unreachable may pass.
    """
    cfg = load_resolved_config(run_dir)
    with locked(run_dir, LOCK_SECONDS):
        path = run_dir / FOLDER / SUPERVISION
        # a submission that failed is tried again, here or by hand: it is told as long as it is the newest
        past = [entry for entry in (read_json(path) if path.exists() else []) if not entry.get("failed")]
        try:
            todo, lost = remaining(cfg, run_dir), ""
        except LostError as error:
            todo, lost = [], str(error)
        found = client.mine()
        every = active_among(run_dir, found)
        running = [job for job in every if job.role != "supervise"]
        failed, ended = final_failures(run_dir), cancelled_by_hand(run_dir, found)
        progress = progress_of(run_dir, cfg, todo)
        vain = in_vain(past, progress)
        entry = {"time": time.time(), "replanned": False, "progress": progress}
        if lost:
            words = f"stopped: {lost}"
        elif not todo:
            words = "the run is done"
        elif (run_dir / FOLDER / CANCELLED).exists():
            words = "cancelled by its user"
        elif failed:
            words = "stopped: " + "; ".join(failed)
        elif ended:
            words = f"stopped: cancelled by a person (scancel): {', '.join(ended)}"
        elif not running and vain >= cfg.cluster.max_replans:
            words = f"{len(todo)} unfinished stages; {vain} submissions in a row made no progress (cluster.max_replans)"
        else:
            # all may be there, where a submission died before its supervisor knew it: the next one waits for them
            missing = plan(cfg, run_dir, running) or jobs.with_supervisor([], running)
            own = os.environ.get("SLURM_JOB_ID", "")
            old = [i for job in every if job.role == "supervise" for i in job.tasks.values() if i != own]
            try:
                done = submit_jobs(cfg, run_dir, missing, running).done
            except UserError as error:
                write_json(path, [*past, entry | {"words": f"could not submit: {error}", "failed": True}])
                raise
            with suppress(client.SlurmError):  # the new supervisor waits for what the old ones waited for
                client.cancel(old)
            entry["replanned"] = not running
            again = "again " if not running else ""
            words = f"submitted {sum(job.role != 'supervise' for job in done)} jobs {again}for {len(todo)} unfinished stages"
        write_json(path, [*past, entry | {"words": words}])
        return words
