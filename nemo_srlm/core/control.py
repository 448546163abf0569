"""The two files by which a running stage is controlled: `stop` asks it to save and exit, `logs/error` says why it failed."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from nemo_srlm.core.files import write_atomic


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
    path = error_file(stage_dir)
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""


def clear_error(stage_dir: Path) -> None:
    error_file(stage_dir).unlink(missing_ok=True)
