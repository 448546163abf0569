"""The processes in which a verification runs a model, each by one library: a request goes in, a result comes out, by files.

They can be started before there is anything to verify: their imports, which take longer than a small model's forward pass,
then overlap with the export. This file imports no torch, for the same reason.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.core.process import PARENT, ending
from nemo_srlm.errors import CheckpointError, KilledError

STEPS = ("imports", "weights", "forward pass")  # of a process; it writes the number of those that it has passed
FORWARD = ("transformers", "megatron")  # the libraries whose logits are compared
POLL = 0.05  # seconds between two looks at a file or a process


def steps_path(result: Path) -> Path:
    return result.with_suffix(".steps")


def received(request: Path) -> dict[str, Any]:
    """In the process: its request, as soon as it is there. The process dies with its parent, so it does not wait for ever."""
    while not request.exists():
        time.sleep(POLL)
    found: dict[str, Any] = json.loads(request.read_text(encoding="utf-8"))
    return found


class Child:
    """`python -m ARGUMENTS REQUEST.json RESULT.json`. It ends with `stack`, and with this process, however this one ends."""

    def __init__(self, stack: contextlib.ExitStack, what: str, arguments: Sequence[str]) -> None:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.what, self.result_path, self._log = what, directory / "result.json", directory / "log"
        self._request = directory / "request.json"
        command = [sys.executable, "-m", *arguments, str(self._request), str(self.result_path)]
        log = stack.enter_context(self._log.open("w"))
        env = {**os.environ, PARENT: str(os.getpid())}
        self._process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log, env=env))
        stack.callback(self._process.kill)  # on an error the context of Popen would wait for its end

    def send(self, request: dict[str, Any]) -> None:
        write_atomic(self._request, json.dumps(request))

    def share(self) -> float:
        """How much of its work is done, 0 to 1: by the steps that it has passed."""
        if self._process.poll() is not None:
            return 1.0
        try:
            return int(steps_path(self.result_path).read_text(encoding="utf-8")) / len(STEPS)
        except (OSError, ValueError):
            return 0.0

    def result(self, hf: Path, waiting: Callable[[], None]) -> dict[str, Any]:
        """Waits for the result, calling `waiting`. CheckpointError with the end of its log when the process fails."""
        while (code := self._process.poll()) is None:
            waiting()
            time.sleep(POLL)
        if code < 0:
            raise KilledError(
                hf, f"{self.what} was {ending(code)}", remedy="try again, with more memory if it was short"
            )
        if code or not self.result_path.exists():
            tail = "\n    ".join(self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:])
            raise CheckpointError(hf, f"{self.what} failed (exit code {code}):\n    {tail}")
        found: dict[str, Any] = json.loads(self.result_path.read_text(encoding="utf-8"))
        return found


def start_forward(stack: contextlib.ExitStack, level: str) -> dict[str, Child]:
    """The processes of the forward passes that a verification of this level needs, by library; they wait for requests."""
    if level == "round_trip":
        return {}
    module = f"{__package__}.compare_logits"
    return {name: Child(stack, f"the forward pass of {name}", [module, name]) for name in FORWARD}
