"""What a launcher is: the way in which a run's stages are executed. LAUNCHERS lists them: this machine and Slurm.

The commands `plan`, `cancel` and `submit --supervise` are Slurm's own (launch/slurm/verbs.py): other launchers have no queue.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nemo_srlm.config.schema import Config
from nemo_srlm.core.stage import Ref
from nemo_srlm.errors import UserError
from nemo_srlm.launch import local
from nemo_srlm.launch.slurm import status as slurm_status
from nemo_srlm.launch.slurm import submit as slurm_submit
from nemo_srlm.launch.slurm import verbs as slurm_verbs
from nemo_srlm.report import status
from nemo_srlm.report.status import Look, Row


@dataclass(frozen=True)
class Launcher:
    """`start(cfg, until)` runs or submits the unfinished stages of a run and returns the command line's exit code. It starts
    workers by launch/contract.py, under the run's lock (launch/lock.py). `until` is the stage after which it ends, "" for
    the whole run; a launcher that cannot end there raises UserError.

    `used` says whether a run was started in this way; then `rows` are its status (a row per stage, and notes), and `logs`
    the log files of a stage, the oldest first.
    """

    start: Callable[[Config, str], int]
    used: Callable[[Path], bool]
    rows: Callable[[Look], tuple[list[Row], list[str]]]
    logs: Callable[[Path, Ref], list[Path]]


def _any_run(run_dir: Path) -> bool:
    return True


def _rows_of_files(look: Look) -> tuple[list[Row], list[str]]:
    return status.rows(look), status.notes_of_disk(look.dir)


SLURM = Launcher(slurm_verbs.submit, slurm_submit.submitted, slurm_status.rows, slurm_status.logs)
LOCAL = Launcher(local.start, _any_run, _rows_of_files, local.logs)
# `nemo-srlm run --launcher NAME`. The first one that was used shows a run's status, so `local`, which any run may use, is last.
LAUNCHERS = {
    "slurm": SLURM,
    "local": LOCAL,
}


def launcher_named(name: str) -> Launcher:
    """Raises UserError for a name that is not in the table."""
    if name not in LAUNCHERS:
        raise UserError("--launcher", repr(name), f"one of {', '.join(LAUNCHERS)}")
    return LAUNCHERS[name]


def launcher_of(run_dir: Path) -> Launcher:
    return next(launcher for launcher in LAUNCHERS.values() if launcher.used(run_dir))
