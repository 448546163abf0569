"""Runs another program so that nothing which it started outlives it, or the process that asked for it:

    python -m nemo_srlm.core.guard PARENT COMMAND ...     PARENT: process id of the caller; exit code: that of COMMAND

For programs that start processes of their own which do not die with them (lm_eval's vLLM engine holds the GPU's memory).
"""

import ctypes
import os
import signal
import subprocess
import sys
from functools import partial
from types import FrameType

from nemo_srlm.core.process import die_with_parent
from nemo_srlm.core.process_tree import kill_below

_PR_SET_CHILD_SUBREAPER = 36


def guarded(command: list[str]) -> list[str]:
    """The command line that runs `command` under a guard of this process."""
    return [sys.executable, "-m", "nemo_srlm.core.guard", str(os.getpid()), *command]


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    # processes whose parent has died become children of this one, so that they can be found
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        die_with_parent(parent, signal.SIGTERM)
        code = subprocess.run(
            command, check=False, preexec_fn=partial(die_with_parent, os.getpid())
        ).returncode  # fmt: skip
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        kill_below(os.getpid())
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
