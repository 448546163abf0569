"""Errors that the user can fix, one class per kind. The message says where, what was found, what was expected, what to do.

The command line prints the message without a traceback and exits with 2. Violations of the project's own invariants are
`assert`s.
"""

import errno
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
# what is no question of space: error number -> (expected, remedy)
OTHER = {
    errno.ENAMETOOLONG: ("a name of at most 255 bytes in a path of at most 4,095", "shorten it"),
    errno.ELOOP: ("a path whose symbolic links end", "correct the link"),
    errno.ENOTDIR: ("a directory in every place but the last", "correct the path"),
    errno.EFBIG: (
        "files below the limit on their size",
        "raise it with `ulimit -f unlimited`, then run the same command again: it resumes",
    ),
    errno.EISDIR: ("a file", "correct the path, or move the directory away"),
    errno.EEXIST: ("a directory, or nothing", "correct the path, or move the file away"),
    errno.EMFILE: ("fewer open files than the limit", "raise it with `ulimit -n`, then run the same command again"),
    errno.ENFILE: ("fewer open files than the system's limit", "wait or raise it, then run the same command again"),
    errno.ESTALE: ("a mounted file system", "mount it again, then run the same command again: it resumes"),
    errno.EPERM: (
        "an operation that the system permits on this path",
        "ask its owner, or name another path, then run the same command again: it resumes",
    ),
    errno.EROFS: (
        "a file system that may be written",
        "mount it writable, or name another path, then run the same command again: it resumes",
    ),
    errno.EIO: ("a disk or network that answers", "check it, then run the same command again: it resumes"),
}
# of OTHER: what another attempt, perhaps on another node, may not meet again
PASSING = {errno.ENFILE, errno.ESTALE, errno.EIO}
LOOP = "Symlink loop from "  # Path.resolve raises a RuntimeError with these words until Python 3.12, no OSError
INSTALL = (
    "run `make venv` (CPU) or `make venv-gpu` and use that environment's bin/nemo-srlm; in a container, install "
    "tools/requirements/train.txt or use the vLLM image (docs/install.md)"
)
FULL = 2**20  # bytes: with less free space than this, the full disk is the cause of any failed write


LONGEST_LINE = 600  # characters of a message: a value may have thousands


def _cut(text: str) -> str:
    """`text` with the middle of its long lines left out."""
    half = LONGEST_LINE // 2
    return "\n".join(
        line if len(line) <= LONGEST_LINE else f"{line[:half]} ... ({len(line):,} characters) ... {line[-half // 4 :]}"
        for line in text.split("\n")
    )


class UserError(ValueError):
    """A mistake that the user can fix. `where` names the file, line or config field."""

    def __init__(self, where: object, found: str, expected: str = "", remedy: str = "") -> None:
        self.where, self.found, self.expected, self.remedy = _cut(str(where)), _cut(found), expected, remedy
        parts = [f"{self.where}: {self.found}"]
        if expected:
            parts.append(f"expected {expected}")
        if remedy:
            parts.append(remedy)
        super().__init__("; ".join(parts))


def raise_all(where: object, found: Sequence[UserError], heading: str) -> None:
    """Raises what was found: one error as it is, several as one UserError that lists each once, below `heading`.

    Nothing without errors.
    """
    texts = list({str(error): error for error in found})
    if len(texts) == 1:
        raise found[0]
    if texts:
        raise UserError(where, "\n    ".join([heading, *texts]))


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type or out of range, or that contradicts another."""


class DataError(UserError):
    """An input file that is missing, empty, truncated or malformed."""


class StaleError(UserError):
    """A finished stage was made under other settings or inputs than those of the current config."""


class LostError(UserError):
    """Outputs of finished stages that are missing or have changed since."""


class CheckpointError(UserError):
    """A model directory or checkpoint that cannot be read, or that does not fit the config."""


class KilledError(CheckpointError):
    """A process of a conversion or verification that a signal has ended: another attempt may succeed."""


class EngineError(UserError):
    """The generation engine could not be started, or stopped responding."""


class PassingError(EngineError):
    """The same for a reason that the next attempt, perhaps on another node, may not meet: it is no setting's fault."""


class InstallError(UserError):
    """A package that is not installed for the interpreter that needs it."""


def of_missing_package(error: BaseException | None) -> UserError | None:
    """The user's error behind an import of somebody else's package that is not there; None for anything else."""
    if not isinstance(error, ModuleNotFoundError) or not error.name or error.name.split(".")[0] == "nemo_srlm":
        return None
    return InstallError(sys.executable, f"{error.name}: not installed", remedy=INSTALL)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Around the writing of `path`: what the system says of a write, which carries no name, is about this path."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def is_passing(error: BaseException) -> bool:
    """Whether a failure may be gone at the next attempt: of an engine, of a killed process, or of the system."""
    passing = isinstance(error, (PassingError, KilledError))
    return passing or (isinstance(error, OSError) and error.errno in PASSING)


def _permission(path: Path) -> str:
    """Which permission on the path is missing, as far as this process can see."""
    for folder in reversed(path.parents):
        if os.path.isdir(folder) and not os.access(folder, os.X_OK):
            return f"permission to enter {folder}"
    if not os.path.exists(path):
        return f"permission to write into {path.parent}"
    missing = [word for mode, word in ((os.R_OK, "read"), (os.W_OK, "write")) if not os.access(path, mode)]
    return f"permission to {' and '.join(missing) or 'use'} it"


def of_system(error: BaseException | None, where: Path) -> UserError | None:
    """The user's error behind an exception of the system, about the path that the system names, else about `where`, below
    which was written; None if there is none.

    Also checks for a full disk, because libraries replace its OSError with errors of their own (torch's zip writer), and
    because a process that died of it may not have reported it (`error` is None then).
    """
    if isinstance(error, RuntimeError) and str(error).startswith(LOOP):
        return UserError(str(error)[len(LOOP) :].strip("'"), os.strerror(errno.ELOOP), *OTHER[errno.ELOOP])
    number, named = (error.errno, error.filename) if isinstance(error, OSError) else (None, None)
    path = Path(os.fsdecode(named)) if isinstance(named, (str, bytes)) else where
    if isinstance(error, OSError) and number == errno.EACCES:
        remedy = "give it (`chmod`, `chown`), or name another path, then run the same command again: it resumes"
        return UserError(path, str(error.strerror), _permission(path), remedy)
    if isinstance(error, OSError) and number in OTHER:
        return UserError(path, str(error.strerror), *OTHER[number])
    place = where if named is None else path
    while not os.path.exists(place):  # False, where Path.exists raises: a name too long, a folder that may not be read
        place = place.parent
    usage = shutil.disk_usage(place)
    free, full = usage.free, usage.total > 0 and usage.free < FULL  # /proc has no space at all
    if not full and number not in NO_SPACE:
        return None
    what = str(error.strerror) if isinstance(error, OSError) and number in NO_SPACE else "the disk is full"
    remedy = "free some space" if full or number == errno.ENOSPC else "free some space, or ask for a larger quota"
    return UserError(
        path,
        f"{what} ({free / 2**20:,.1f} MiB free)",
        "a writable directory with free space",
        f"{remedy}, then run the same command again: it resumes",
    )
