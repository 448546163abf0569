"""A process and all that it started: found in /proc, killed, or made to write their stacks first."""

import functools
import os
import signal
import time
from itertools import chain
from pathlib import Path
from subprocess import Popen

from nemo_srlm.core.terminal import say

DUMP_SECONDS = 5.0  # that a hung process gets to write its stacks
ROUNDS = 5
GONE_SECONDS = 60.0  # that a killed process gets to end: one that waits for a file server ends when that answers


def generations(pid: int) -> list[list[int]]:
    """`pid` and the living processes below it, one list per generation, the youngest first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = _stat(int(entry.name))
            except OSError:
                continue  # it ended in the meantime
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [[pid]]
    while below := [c for p in found[-1] for c in children.get(p, [])]:
        found.append(below)
    return found[::-1]


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def kill(child: "Popen[bytes]") -> None:
    """Kills the process and all below it, and returns when they are gone: until then they may still write."""
    below = generations(child.pid)
    for pids in below:
        send(pids, signal.SIGKILL)
    child.wait()
    _await_end(list(chain.from_iterable(below)))


def kill_below(pid: int) -> None:
    """Kills all processes below `pid`, also those that they start in the meantime."""
    for _ in range(ROUNDS):
        below = list(chain.from_iterable(generations(pid)[:-1]))
        if not below:
            return
        send(below, signal.SIGKILL)
        _await_end(below)


def _await_end(pids: list[int]) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return _stat(pid)[0] not in "ZX"
    except OSError:
        return False


def started(pid: int) -> float:
    """When a process began, in seconds since the epoch by this machine's clock. Raises OSError when it has ended or is hidden."""
    ticks = int(_stat(pid)[19])  # field 22 of proc(5): since the machine was started
    return _booted() + ticks / os.sysconf("SC_CLK_TCK")


@functools.cache
def _booted() -> int:
    """When this machine was started. Once a process: the file has a line for every core and interrupt."""
    lines = Path("/proc/stat").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("btime "))


def hidden(pid: int) -> bool:
    """Whether it is another user's process, which /proc may not show (its mount option hidepid)."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return False


def _stat(pid: int) -> list[str]:
    """State, parent and what follows. Raises OSError when it has ended."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(") ")[2].split()


def dump(child: "Popen[bytes]") -> None:
    """Has every process below write its stacks and ends them, the youngest first: a worker dies with its launcher."""
    say(f"--- hung: the stacks of {child.pid} and the processes below it", error=True)
    for pids in generations(child.pid):
        send(pids, signal.SIGABRT)
        deadline = time.monotonic() + DUMP_SECONDS
        while child.poll() is None and time.monotonic() < deadline:
            if set(pids).isdisjoint(chain.from_iterable(generations(child.pid))):
                break
            time.sleep(0.1)
    kill(child)
