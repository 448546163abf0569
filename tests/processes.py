"""Finds processes that are still alive in a session, for tests that kill a process and check what remains."""

import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen


def living(session: int) -> list[str]:
    """The processes of a session that run or sleep; zombies do not count."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = stat.read_text().rsplit(")", 1)
        except OSError:  # the process has ended
            continue
        state, _, _, its_session = fields.split()[:4]
        if int(its_session) == session and state not in "ZX":
            found.append(f"{name}) {state}")
    return found


def left_by(session: int, seconds: float = 20.0) -> list[str]:
    """The processes of a session that are still alive after `seconds`, in which any writer would have ended."""
    until = time.monotonic() + seconds
    while (found := living(session)) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def await_file(ready: Path, worker: "Popen[bytes]", log: Path) -> None:
    """Waits until the process has written `ready`; fails with the end of its log when it ends before."""
    while not ready.exists() and worker.poll() is None:
        time.sleep(0.1)
    assert worker.poll() is None, log.read_text()[-4000:]


def endless(rank: int, world_size: int, advance: Callable[[int], None]) -> None:
    """Work that starts and never ends. In this module because a spawned process imports the module of its function."""
    advance(1)
    time.sleep(600)
