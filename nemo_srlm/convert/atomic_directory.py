"""A directory that appears under its name when it is complete, or not at all."""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo_srlm.errors import CheckpointError


def partial_path(final: Path) -> Path:
    """Where `atomic_directory(final)` collects the files."""
    whole = Path(os.path.abspath(final))  # `.` and `x/..` have no name of their own
    return whole.with_name(f".{whole.name}.partial")


@contextmanager
def atomic_directory(
    final: Path, num_bytes: int, overwrite: bool, inputs: Iterable[Path], resume: bool = False
) -> Iterator[Path]:
    """A temporary directory beside `final`, renamed to `final` when the block ends without an error.

    Refuses when `final` exists (unless `overwrite`), when it is a link or holds the working directory, when it equals, contains
    or lies in one of the `inputs`, which would be lost with it, or when the disk has no room for `num_bytes`. After an error
    the temporary directory is removed; after a kill it stays, and the next attempt empties it, or with `resume` keeps it.
    """
    here = Path.cwd()
    if final.resolve() in (here, *here.parents):
        raise CheckpointError(final, "the output is the working directory, or contains it", "a directory of its own",
                              "choose another output")  # fmt: skip
    temporary = partial_path(final)
    for source in inputs:
        one, other = final.resolve(), source.resolve()
        if one == other or one in other.parents or other in one.parents:
            raise CheckpointError(final, f"the output equals, contains or lies in the input {source}",
                                  "two separate directories", "choose another output")  # fmt: skip
    if final.is_symlink():
        raise CheckpointError(
            final, f"a link to {final.resolve()}", "a directory, or nothing", "name the directory itself"
        )
    if final.exists() and not overwrite:
        raise CheckpointError(final, "exists already", remedy="remove it or choose another directory")
    try:
        if temporary.exists() and not resume:
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True, exist_ok=True)
        held = sum(path.stat().st_size for path in temporary.iterdir())
        free = shutil.disk_usage(temporary).free
        if free < num_bytes - held:
            raise CheckpointError(
                final, f"{free / 2**30:.1f} GiB free on the disk", f"{(num_bytes - held) / 2**30:.1f} GiB",
                "free some space or choose another directory",
            )  # fmt: skip
        yield temporary
        _sync_directory(temporary)
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
        _sync_directory(final.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
            raise CheckpointError(
                final, f"cannot be written ({error.strerror})", f"{num_bytes / 2**30:.2f} GiB of room",
                "free some space or choose another directory; nothing was written under this name",
            ) from error  # fmt: skip
        raise
    except Exception:  # an interrupt leaves it, for `resume`
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_written(directory: Path, names: Iterable[str], num_bytes: int) -> None:
    """Asserts that what the conversion is about to report lies on the disk: every file, and at least `num_bytes` in them."""
    sizes = {name: (directory / name).stat().st_size if (directory / name).is_file() else 0 for name in names}
    absent = sorted(name for name, size in sizes.items() if not size)
    assert sizes, f"{directory}: no file was written"
    assert not absent, f"{directory}: {absent} are to be reported and were not written"
    held = sum(sizes.values())
    assert held >= num_bytes, f"{directory}: {held} bytes were written, {num_bytes} are to be reported"
