"""A child dies with its parent, also where the parent died before the child could ask Linux for it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed.run

from nemo_srlm.config.schema import Config
from nemo_srlm.core.guard import guarded
from nemo_srlm.core.process import PARENT
from nemo_srlm.core.process_tree import alive
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.stage import Context
from nemo_srlm.launch import torchrun
from nemo_srlm.stages import eval_harness
from tests.processes import left_by

ROOT = Path(__file__).resolve().parents[2]
LATE = """
import os, pathlib, subprocess, sys, time
CHILD = '''
import os, pathlib, sys, time
from nemo_srlm.core.process import die_with_parent
parent, out = int(sys.argv[1]), pathlib.Path(sys.argv[2])
while os.getppid() == parent:
    time.sleep(0.01)
out.with_suffix(".asks").touch()
die_with_parent(parent)
out.with_suffix(".survived").touch()
'''
subprocess.Popen([sys.executable, "-c", CHILD, str(os.getpid()), sys.argv[1]])
"""


def test_a_child_that_asks_too_late_dies_too(tmp_path: Path):
    parent = subprocess.Popen([sys.executable, "-c", LATE, str(tmp_path / "child")], cwd=ROOT, start_new_session=True)
    parent.wait()
    while not (tmp_path / "child.asks").exists():
        time.sleep(0.01)
    assert left_by(parent.pid) == []
    assert not (tmp_path / "child.survived").exists()


@pytest.mark.parametrize("words", [
    ["launch.train_worker", "RUN", "iter0/sft"], ["convert.compare_logits", "megatron", "REQUEST", "RESULT"],
    ["convert.vllm_check", "REQUEST", "RESULT"],
])  # fmt: skip
def test_a_process_whose_parent_is_gone_ends_at_once(tmp_path: Path, words: list[str]):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    module, *arguments = words
    command = [sys.executable, "-m", f"nemo_srlm.{module}", *arguments]
    rank = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, PARENT: str(gone.pid), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert rank.returncode == -9
    assert rank.stderr == b""


def test_torchrun_hands_its_process_id_to_its_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    handed: list[str] = []
    monkeypatch.setattr(torch.distributed.run, "run", lambda args: handed.append(os.environ[PARENT]))
    for name in (PARENT, "TORCHELASTIC_SIGNALS_TO_HANDLE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(torchrun.signal, "signal", lambda *_: None)
    (tmp_path / "iter0" / "sft").mkdir(parents=True)
    assert torchrun.main([str(tmp_path), "iter0/sft", "--standalone"]) == 0
    assert handed == [str(os.getpid())]


def test_a_benchmark_runs_under_the_guard_of_its_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """lm_eval holds a GPU for hours; it is another project's program and cannot ask by itself."""
    started: list[list[str]] = []

    def stop(command: list[str], **options: object) -> None:
        started.append(command)
        raise KeyboardInterrupt

    monkeypatch.setattr(eval_harness.subprocess, "run", stop)
    cfg = Config()
    cfg.eval.harness.enabled = True
    ctx = Context(cfg, 0, tmp_path, {"model": tmp_path}, Progress(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        eval_harness.STAGE.run(ctx)
    (command,) = started
    assert command == guarded(command[command.index("-m", 3) - 1 :])
    assert "lm_eval" in command


# like lm_eval with vLLM: a program whose child does not die with it
HARNESS = """
import os, pathlib, subprocess, sys, time
engine = subprocess.Popen(["sleep", "600"], start_new_session=True)
pathlib.Path(sys.argv[1]).write_text(str(engine.pid))
time.sleep(600 if sys.argv[2] == "stay" else 0)
sys.exit(3)
"""
WORKER = """
import subprocess, sys
from nemo_srlm.core.guard import guarded
sys.exit(subprocess.run(guarded([sys.executable, "-c", *sys.argv[1:]])).returncode)
"""


@pytest.mark.parametrize("end", ["kill -9 of the worker", "the program's own"])
def test_nothing_that_a_guarded_program_started_outlives_it(tmp_path: Path, end: str):
    mode = "stay" if end.startswith("kill") else "end"
    words = [sys.executable, "-c", WORKER, HARNESS, str(tmp_path / "pid"), mode]
    worker = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert worker.poll() is None or mode == "end"
        time.sleep(0.02)
    if mode == "stay":
        worker.kill()
    assert worker.wait() == (3 if mode == "end" else -9)
    assert left_by(worker.pid) == []
    assert not alive(int((tmp_path / "pid").read_text()))
