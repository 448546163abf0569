"""An interrupted training saves at the end of its step, however long that is, unless it is interrupted again."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nemo_srlm.config.schema import Config
from nemo_srlm.core.stage import Ref
from nemo_srlm.launch import local
from nemo_srlm.launch.local import Session, run_workers
from nemo_srlm.launch.plan import Step

STEP = Step((Ref("sft", 0),), "train", 1)
# a worker whose step ends when the file `step_ends` is there; then it saves
WORKER = """
import pathlib, signal, sys, time
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
here = pathlib.Path(sys.argv[1])
(here / "ready").touch()
while not (told and (here / "step_ends").exists()):
    time.sleep(0.01)
(here / "saved").touch()
"""


class Interrupting:
    """A display on which the user presses Ctrl-C as soon as the worker is ready."""

    def __init__(self, directory: Path) -> None:
        self._ready, self.lines = directory / "ready", list[str]()

    def line(self, text: str) -> None:
        self.lines.append(text)

    def show(self, *_: Any) -> None:
        if self._ready.exists():
            raise KeyboardInterrupt


def interrupted(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Interrupting:
    monkeypatch.setattr(local, "GRACE", 0.1)
    monkeypatch.setattr(local, "command_for", lambda *_: ([sys.executable, "-c", WORKER, str(directory)], {}))
    display = Interrupting(directory)
    with pytest.raises(KeyboardInterrupt):
        run_workers(Session(Config(), directory, display, 0.0), STEP, 0)  # type: ignore[arg-type]
    return display


def test_a_long_step_ends_and_saves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    threading.Timer(1.0, (tmp_path / "step_ends").touch).start()  # long after GRACE
    display = interrupted(monkeypatch, tmp_path)
    assert (tmp_path / "saved").exists()
    assert display.lines == [
        "  stopping iter0/sft: it saves at the end of its step. Interrupt again to stop at once, without saving."
    ]


def test_a_second_interrupt_ends_the_training_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def again() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=again).start()
    interrupted(monkeypatch, tmp_path)
    (tmp_path / "step_ends").touch()
    time.sleep(0.2)
    assert not (tmp_path / "saved").exists()
