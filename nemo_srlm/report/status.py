"""The state of a run: a row per stage, read from the files of the run directory alone; and the table of `nemo-srlm status`."""

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from nemo_srlm.config.compose import load_resolved_config
from nemo_srlm.core import manifest, outputs
from nemo_srlm.core.control import read_error
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.process_tree import hidden, started
from nemo_srlm.core.progress import read_progress
from nemo_srlm.core.stage import PLAN, Ref, stage_directory
from nemo_srlm.errors import of_system
from nemo_srlm.evaluate.alarms import Alarm, alarms_of_run
from nemo_srlm.report.display import duration, progress_words

QUIET = 120.0  # seconds without progress after which a stage on another host counts as stopped
ROUNDING = 5.0  # seconds by which a process's start, which is known from the machine's, may look too late


@dataclass(frozen=True)
class Row:
    stage: str
    state: str  # done | lost: its outputs have changed | running | stopped | failed | waiting; in Slurm also queued | cancelled
    seconds: float | None
    words: str  # summary, progress or reason
    job: str = ""  # Slurm's id
    node: str = ""


def _alive(progress: dict[str, Any]) -> bool:
    """Whether the process that wrote this still runs. Its id may be another one's by now, most of all after a reboot: one that
    began later than the work did. A clock that was set looks the same, so recent progress counts, too."""
    recent = bool(time.time() - progress["updated"] < QUIET)
    if progress["host"] != os.uname().nodename:
        return recent
    try:
        began = started(progress["pid"])
    except OSError:
        return recent and hidden(progress["pid"])
    return recent or began <= progress["started"] + ROUNDING


class Look:
    """One look at a run: its config and each stage's manifest are read once. Raises ConfigError when `run_dir` is no run's."""

    def __init__(self, run_dir: Path) -> None:
        self.dir, self.cfg = run_dir, load_resolved_config(run_dir)
        self._found: dict[Ref, manifest.Manifest | None] = {}

    def manifest(self, ref: Ref) -> manifest.Manifest | None:
        if ref not in self._found:
            self._found[ref] = manifest.read(stage_directory(self.dir, ref))
        return self._found[ref]

    def metrics(self, iteration: int, stage: str) -> dict[str, Any] | None:
        """None where the stage is not finished."""
        done = self.manifest(Ref(stage, iteration))
        return done.metrics if done else None


def row(look: Look, ref: Ref) -> Row:
    run_dir, directory, done = look.dir, stage_directory(look.dir, ref), look.manifest(ref)
    if done:
        seconds = done.provenance["finished"] - done.provenance["started"]
        if changed := outputs.changes(directory, done.outputs):
            redo = outputs.redo_command(run_dir, [str(ref)])
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            return Row(str(ref), "lost", seconds, f"finished, but {changed[0]}{more}; to make it again: {redo}")
        return Row(str(ref), "done", seconds, str(done.metrics.get("summary", "")))
    if directory.is_symlink():  # from run.reuse, to what the other run makes anew: this one will make its own
        return Row(str(ref), "waiting", None, "")
    if error := read_error(directory):
        return Row(str(ref), "failed", None, f"{error.splitlines()[0]}  (logs: {directory / 'logs'})")
    progress = read_progress(directory)
    if progress is None:
        return Row(str(ref), "running" if (directory / PLAN).exists() else "waiting", None, "")
    state = "running" if _alive(progress) else "stopped"
    return Row(
        str(ref), state, time.time() - progress["started"] if state == "running" else None, progress_words(progress)
    )


def rows(look: Look) -> list[Row]:
    """A row per stage, from the files alone."""
    return [row(look, ref) for ref in pipeline(look.cfg)]


def notes_of_disk(run_dir: Path) -> list[str]:
    """That the disk is full: a worker that met it may have had no room for its reason."""
    full = of_system(None, run_dir)
    return [str(full)] if full else []


def alarms(look: Look) -> list[Alarm]:
    """The drift alarms so far (`drift.*`)."""
    return alarms_of_run(look.cfg, look.metrics)


def as_json(look: Look, found: list[Row], notes: list[str]) -> dict[str, Any]:
    raised = [asdict(alarm) for alarm in alarms(look)]
    return {"run": str(look.dir), "stages": [asdict(r) for r in found], "notes": notes, "alarms": raised}


COLOURS = {
    "done": "green", "lost": "red", "running": "cyan", "stopped": "yellow", "failed": "red", "waiting": "dim",
    "queued": "blue", "cancelled": "magenta",
}  # fmt: skip


def table(look: Look, found: list[Row], notes: list[str]) -> Table:
    notes = [
        *notes,
        *(f"alarm, {a.model}: {a.text} ({a.name} {a.value:.2f} > {a.threshold:.2f})" for a in alarms(look)),
    ]
    count = sum(r.state == "done" for r in found)
    out = Table(
        title=f"{escape(str(look.dir))}: {count} of {len(found)} stages done", title_justify="left", box=None,
        pad_edge=False,
    )  # fmt: skip
    slurm = any(r.job for r in found)
    for name in ("stage", "state", "time", *(("job", "node") if slurm else ()), ""):
        out.add_column(name, justify="right" if name == "time" else "left", overflow="fold", no_wrap=name == "stage")
    for r in found:
        where = (r.job, r.node) if slurm else ()
        out.add_row(r.stage, f"[{COLOURS[r.state]}]{r.state}[/]", duration(r.seconds), *where, escape(r.words))
    out.caption, out.caption_justify = escape("\n".join(notes)) or None, "left"
    return out
