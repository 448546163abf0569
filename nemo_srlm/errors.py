"""The user's mistakes: one exception class per kind, one message with place, found, expected and remedy.

The command line prints the message without a traceback and exits with 2. Our own broken invariants are `assert`s.
"""

import errno
import shutil
from pathlib import Path

SYSTEM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}  # what a user can mend
FULL = 2**20  # bytes: with less left, whatever went wrong while writing went wrong for this


class UserError(ValueError):
    """Something the user can mend. `where` names the file, line or config field."""

    def __init__(self, where: object, found: str, expected: str = "", remedy: str = "") -> None:
        self.where, self.found, self.expected, self.remedy = str(where), found, expected, remedy
        parts = [f"{self.where}: {found}"]
        if expected:
            parts.append(f"expected {expected}")
        if remedy:
            parts.append(remedy)
        super().__init__("; ".join(parts))


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, or that contradicts another."""


class DataError(UserError):
    """An input file that is missing, empty, cut short or malformed."""


class StaleError(UserError):
    """A finished stage was made under other settings or inputs than the ones asked for now."""


class CheckpointError(UserError):
    """A model directory or checkpoint that cannot be read, or does not fit the config."""


class EngineError(UserError):
    """The generation engine could not be started or stopped answering."""


def of_system(error: BaseException | None, where: Path) -> UserError | None:
    """The user's mistake behind an exception raised while files were written below `where`, if it is one.

    A full disk is looked for, too: libraries turn its OSError into errors of their own (torch's zip writer), and a process
    that died of it may not have been able to say so (`error` is None then).
    """
    place = where
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    full = free < FULL
    if isinstance(error, OSError) and error.errno in SYSTEM:
        what = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    elif full:
        what = "the disk is full"
    else:
        return None
    remedy = "free some space" if full else "free space, or fix the permissions"
    return UserError(
        where,
        f"{what} ({free / 2**20:,.1f} MiB free)",
        "room to write",
        f"{remedy}, then run again: it resumes",
    )
