"""tools/convert.py: both directions and verification, progress with the time left, one-line errors, SIGKILL."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_srlm.convert.export_hf import export_hf
from nemo_srlm.convert.import_hf import import_hf
from nemo_srlm.convert.processes import run_parallel
from tests.processes import endless, left_by
from tests.unit import tiny_llama
from tools import convert

ROOT = Path(__file__).resolve().parents[2]
MODEL = tiny_llama.SHAPES["gqa"]


def tool(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["tools/convert.py", *map(str, arguments)])
    return convert.main()


def test_there_back_and_compared_without_a_run_directory(tmp_path: Path, monkeypatch, capsys):
    made = tiny_llama.make(tmp_path / "hf", MODEL, shards=2)
    assert tool(monkeypatch, "hf-to-megatron", tmp_path / "hf", tmp_path / "mg") == 0
    assert "import: 100.0 %" in capsys.readouterr().err
    back = ["megatron-to-hf", tmp_path / "mg", tmp_path / "back", "--like", tmp_path / "hf", "--max-shard-gb", "5e-5"]
    assert tool(monkeypatch, *back, "--verify", "round_trip") == 0
    shown = capsys.readouterr()
    assert "export: 100.0 %" in shown.err
    assert "compare: 100.0 %" in shown.err
    assert "no tokenizer files: none were found" in shown.out
    assert tiny_llama.equal_bits(tiny_llama.read(tmp_path / "back"), made)
    assert tool(monkeypatch, "verify", tmp_path / "hf", tmp_path / "mg", "--level", "round_trip") == 0
    assert f"{len(made)} tensors are equal bit for bit" in capsys.readouterr().out
    assert json.loads((tmp_path / "hf.verification.json").read_text())["passed"]
    assert tool(monkeypatch, *back) == 2  # the output exists
    assert "exists already" in capsys.readouterr().err


def test_force_replaces_a_conversion_and_nothing_else(tmp_path: Path, monkeypatch, capsys):
    """A mistyped directory of other things is not removed."""
    tiny_llama.make(tmp_path / "hf", MODEL)
    made = tmp_path / "hf"
    command = ["hf-to-megatron", made, tmp_path / "out", "--force"]
    (tmp_path / "out").mkdir()
    assert tool(monkeypatch, *command) == 0  # empty
    assert tool(monkeypatch, *command) == 0  # a checkpoint
    assert tool(monkeypatch, "megatron-to-hf", command[2], tmp_path / "back", "--like", made) == 0
    assert tool(monkeypatch, *command[:2], tmp_path / "back", "--force") == 0  # a model directory
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("words")
    (tmp_path / "thesis/config.json").write_text("{}")  # of a bundler, say
    (tmp_path / "notes").write_text("words")
    for name in ("thesis", "notes"):
        capsys.readouterr()
        assert tool(monkeypatch, *command[:2], tmp_path / name, "--force") == 2
        assert "neither a model directory nor a checkpoint" in capsys.readouterr().err
    assert (tmp_path / "thesis/chapter.tex").read_text() == (tmp_path / "notes").read_text() == "words"


def test_the_meter_tells_share_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    now = [100.0]
    monkeypatch.setattr(convert.time, "monotonic", lambda: now[0])
    meter = convert.Meter("import")
    for seconds, done in ((0, 0), (20, 500_000_000), (21, 525_000_000), (80, 2_000_000_000)):
        now[0] = 100.0 + seconds
        meter(done, 2_000_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "import:  25.0 %  500.0 of 2,000.0 M parameters  25 M/s  ETA 1:00",  # none at 21 s: too soon
        "import: 100.0 %  2,000.0 of 2,000.0 M parameters  25 M/s  80.0 s",
    ]


def test_it_helps_and_prints_one_line_for_a_mistake(tmp_path: Path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "tools/convert.py", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    helped = run("--help")
    assert helped.returncode == 0
    assert {"hf-to-megatron", "megatron-to-hf", "verify"} <= set(helped.stdout.split())
    done = run("hf-to-megatron", str(tmp_path / "absent"), str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "no config.json" in done.stderr
    assert "Traceback" not in done.stderr


def killed(work: Callable[[Callable[[int, int], None]], object], at: float) -> None:
    """Runs `work` in a process that gets SIGKILL once that share of the parameters is written."""

    def die(done: int, total: int) -> None:
        if done > at * total:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            work(die)
        os._exit(1)  # not reached if the signal came
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_an_export_after_kill_9_goes_on_after_its_last_finished_file(tmp_path: Path):
    made = tiny_llama.make(tmp_path / "hf", MODEL)
    import_hf(tmp_path / "hf", tmp_path / "mg")
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    killed(lambda die: export_hf(tmp_path / "mg", out, MODEL, max_shard_bytes=50_000, report=die), 0.5)
    assert not out.exists()
    finished = {path.name: path.stat().st_mtime_ns for path in partial.glob("*.safetensors")}
    assert finished
    assert list(partial.glob("*.part"))  # the file that was being written
    export_hf(tmp_path / "mg", out, MODEL, max_shard_bytes=50_000)
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == finished
    assert tiny_llama.equal_bits(tiny_llama.read(out), made)
    assert {path.suffix for path in out.iterdir()} == {".json", ".safetensors"}
    assert not partial.exists()


def test_an_import_after_kill_9_starts_afresh(tmp_path: Path):
    made = tiny_llama.make(tmp_path / "hf", MODEL)
    killed(lambda die: import_hf(tmp_path / "hf", tmp_path / "mg", report=die), 0.5)
    assert not (tmp_path / "mg").exists()
    assert (tmp_path / ".mg.partial" / "__0_0.distcp").exists()
    import_hf(tmp_path / "hf", tmp_path / "mg")
    assert not (tmp_path / ".mg.partial").exists()
    export_hf(tmp_path / "mg", tmp_path / "back", MODEL)
    assert tiny_llama.equal_bits(tiny_llama.read(tmp_path / "back"), made)


def test_a_killed_conversion_leaves_no_process_behind(tmp_path: Path):
    both = tmp_path / "both are at work"
    begun, child = time.monotonic(), os.fork()
    if child == 0:
        os.setsid()
        with contextlib.suppress(BaseException):
            run_parallel(endless, 2, 2, lambda done, total: both.touch() if done == 2 else None)
        os._exit(1)
    while not both.exists():
        assert time.monotonic() - begun < 120
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert left_by(child) == []
