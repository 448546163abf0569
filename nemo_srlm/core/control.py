"""The files by which a running stage is controlled: `stop` asks it to save and exit, `logs/stopped` says why a training did so
before its end, and `logs/error` why a stage failed."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from nemo_srlm.config.atomic import write_atomic


def stop_file(directory: Path) -> Path:
    """Present: save and exit. In a run's directory it is made by people, in a stage's directory by the launcher."""
    return directory / "stop"


def error_file(stage_dir: Path) -> Path:
    return stage_dir / "logs" / "error"


def write_error(stage_dir: Path, message: str, *, keep: bool = False) -> None:
    """Why the stage failed. The next attempt overwrites or removes it. `keep`: an existing message stays.

    Called by processes that are about to end: one with no free file descriptor gives up its standard input for it.
    """
    path = error_file(stage_dir)
    with suppress(OSError):  # on a full disk; whoever reads the file looks for that
        path.parent.mkdir(parents=True, exist_ok=True)
        if keep and path.exists():
            return
        try:
            write_atomic(path, message)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            os.close(0)
            write_atomic(path, message)


def read_error(stage_dir: Path) -> str:
    """Why the last attempt failed; "" where none has written it, or a full disk has left the file empty."""
    return _text(error_file(stage_dir))


def clear_error(stage_dir: Path) -> None:
    error_file(stage_dir).unlink(missing_ok=True)


def _stopped_file(stage_dir: Path) -> Path:
    return stage_dir / "logs" / "stopped"


def write_stopped(stage_dir: Path, reason: str) -> None:
    """Why a training has saved and ended before its end. The next attempt removes it."""
    path = _stopped_file(stage_dir)
    with suppress(OSError):  # a full disk: the launcher then knows of no reason
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, reason)


def read_stopped(stage_dir: Path) -> str:
    """Why the last attempt has saved and ended before its end; "" where nobody has written it."""
    return _text(_stopped_file(stage_dir))


def clear_stopped(stage_dir: Path) -> None:
    _stopped_file(stage_dir).unlink(missing_ok=True)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
