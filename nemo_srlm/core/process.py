"""Child processes that never outlive their parent: after a killed `run` no worker keeps writing."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

PARENT = "NEMO_SRLM_PARENT"  # environment: process id of the parent, for a child that is started by other software
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int, sent: signal.Signals = signal.SIGKILL) -> None:
    """Has Linux kill this process (by the signal `sent`) when its parent dies, however it dies; also across a later exec.

    `parent`: its process id, read by the parent itself. The child cannot ask for it: a parent that died before this
    call has been replaced by another process.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, sent)
    if os.getppid() != parent:  # it died before the call
        os.kill(os.getpid(), sent)


def die_with_named_parent() -> None:
    """`die_with_parent` of the process that the environment names (PARENT): first of all in a child's own program."""
    die_with_parent(int(os.environ[PARENT]))


def start(
    command: Sequence[str], log: Path, env: Mapping[str, str], stdin: int = subprocess.DEVNULL
) -> "subprocess.Popen[bytes]":
    """Starts `command` in a session of its own, with stdout and stderr appended to `log`. It dies with this process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as f:
        return subprocess.Popen(
            command, stdin=stdin, stdout=f, stderr=subprocess.STDOUT, env={**os.environ, **env},
            start_new_session=True, preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509 - the only way; this process has one thread
        )  # fmt: skip


def stop(child: "subprocess.Popen[bytes]", grace: float) -> None:
    """SIGTERM to the child's group, so that it can save; SIGKILL after `grace` seconds."""
    for sig, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(child.pid, sig)
        except ProcessLookupError:
            return
        try:
            child.wait(wait)
        except subprocess.TimeoutExpired:
            continue


def ending(code: int) -> str:
    """How a process ended, in words, by its exit code: `killed by SIGKILL ...`."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"killed by {name}" + (
        " (by the system when memory is short, or by a person)" if -code == signal.SIGKILL else ""
    )


def tail(log: Path) -> str:
    """The last 15 lines of a log, for an error message."""
    try:
        with log.open("rb") as f:
            f.seek(max(0, log.stat().st_size - 16384))
            text = f.read().decode(errors="replace")
    except OSError as error:
        return f"(no log: {error})"
    return "\n".join(text.splitlines()[-15:])
