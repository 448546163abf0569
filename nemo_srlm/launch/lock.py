"""The lock of a run directory: one launcher at a time. The kernel's where there is one, so it is gone when its process is.

Where the file system has no such lock (Lustre without `flock`, some NFS), a file that only one process can create takes its
place. It names its owner, so that one which was left behind on this machine is taken over.
"""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo_srlm.core.commands import about
from nemo_srlm.core.terminal import say
from nemo_srlm.errors import UserError

POLL = 0.2  # seconds between two attempts
HELD = ".lock.held"  # in place of the kernel's lock
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def locked(run_dir: Path, patience: float = 0.0) -> Iterator[None]:
    """Holds the lock. Raises UserError when another process holds it for longer than `patience` seconds."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # /proc and other places where no folder can be made
        raise UserError(
            run_dir, "cannot be made", "a place where folders can be made", "set another run.root"
        ) from error
    until = time.monotonic() + patience
    with (run_dir / ".lock").open("w") as f:
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise UserError(
                        run_dir, "another `nemo-srlm` process is already running here",
                        remedy=f"wait for it, or look with `{about('status', run_dir)}`",
                    ) from error  # fmt: skip
                time.sleep(POLL)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                say(
                    f"{run_dir}: its file system has no flock ({error.strerror}): locked by the file {HELD}", error=True
                )
                with _held(run_dir / HELD, until):
                    yield
                return
        yield


@contextmanager
def _held(path: Path, until: float) -> Iterator[None]:
    """Holds the file. Raises UserError after `until` (of time.monotonic) with the owner's name and what to do."""
    own = json.dumps({"host": os.uname().nodename, "pid": os.getpid()})
    while True:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            break
        except FileExistsError as error:
            owner = _owner(path)
            gone = owner.get("host") == os.uname().nodename and not Path(f"/proc/{owner.get('pid')}").exists()
            if gone and _remove(path, owner):
                continue
            if time.monotonic() >= until:
                who = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
                raise UserError(
                    path, f"held by {who}", remedy="wait for it; if it no longer runs, remove this file"
                ) from error
            time.sleep(POLL)
    try:
        with os.fdopen(descriptor, "w") as f:
            f.write(own)
        yield
    finally:
        path.unlink(missing_ok=True)


def _remove(path: Path, owner: dict[str, object]) -> bool:
    """Removes the file of an owner that no longer runs; False while another process does. One at a time, who looks again: the
    file may be that of a process which was faster."""
    token = path.with_name(f"{path.name}.{owner.get('pid')}")
    try:
        os.close(os.open(token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return False
    try:
        if _owner(path) == owner:
            path.unlink(missing_ok=True)
    finally:
        token.unlink(missing_ok=True)
    return True


def _owner(path: Path) -> dict[str, object]:
    """Who holds the file; {} while it is being written, or after it is gone."""
    try:
        found: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found
