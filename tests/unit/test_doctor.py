"""The doctor's machinery: a check in its own process with a limit, what is not here, the table's exit code, the inventory."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from nemo_srlm.config.compose import compose
from nemo_srlm.core.stage import Ref
from nemo_srlm.doctor import check as checks
from nemo_srlm.doctor import inventory, training, verb
from nemo_srlm.doctor.check import Check, Place, Result, run_check, run_process
from nemo_srlm.doctor.inventory import Gpu, Machine
from nemo_srlm.doctor.table import CHECKS
from nemo_srlm.errors import UserError
from nemo_srlm.launch.gpus import check_gpus
from tests.processes import left_by

ROOT = Path(__file__).resolve().parents[2]
CPU = Machine((), transformer_engine=False, vllm=False)
H100 = Machine((Gpu("NVIDIA H100 80GB HBM3", "580.1", "81559 MiB", (9, 0)),) * 8, transformer_engine=True, vllm=True)
BY_NAME = {check.name: check for check in CHECKS}


def place(directory: Path, machine: Machine = CPU) -> Place:
    return Place(directory, machine, 5)


def test_a_check_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path):
    started = tmp_path / "pid"
    code = f"""
import os, pathlib, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({str(started)!r}).write_text(str(os.getpid()))
print("waiting for nobody", flush=True)
time.sleep(600)
"""
    reason = run_process([sys.executable, "-c", code], tmp_path / "log", 3.0)
    assert "did not end within 3 s" in reason
    assert "waiting for nobody" in reason
    assert left_by(int(started.read_text())) == []


def test_a_check_that_crashes_fails_with_the_end_of_its_log(tmp_path: Path):
    reason = run_process([sys.executable, "-c", "import os; os.abort()"], tmp_path / "log", 60.0)
    assert reason.startswith("exit code -6")
    assert run_process([sys.executable, "-c", "pass"], tmp_path / "log", 60.0) == ""


def test_a_check_answers_from_its_own_process(tmp_path: Path):
    found = run_check(BY_NAME["files"], place(tmp_path))
    assert (found.status, found.reason) == ("ok", "")
    assert found.figures["flushed write ms"] > 0


def test_a_file_system_without_locks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from nemo_srlm.doctor import system
    from nemo_srlm.launch import lock

    monkeypatch.setattr(lock.fcntl, "flock", lambda *_: None)
    with pytest.raises(checks.Failed, match="flock does nothing"):
        system.files(place(tmp_path))


def test_what_the_machine_lacks_or_needs_is_not_here_and_not_failed(tmp_path: Path):
    def reason(name: str, machine: Machine, quick: bool = False, **earlier: str) -> str:
        results = {n: Result(n, "", status) for n, status in earlier.items()}  # type: ignore[arg-type]
        return verb.not_here(BY_NAME[name], place(tmp_path, machine), quick, results)

    assert reason("gpu", CPU) == reason("layer", CPU) == "no NVIDIA GPU"
    laptop = dataclasses.replace(CPU, unused=1)
    assert reason("gpu", laptop) == reason("fp8", laptop, sft="ok") == reason("layer", laptop)
    assert "a build for CPUs and uses no GPU" in reason("gpu", laptop)
    assert reason("sft", laptop) == ""
    assert reason("vllm", CPU, export="ok") == "vLLM is not installed"
    assert reason("vllm", H100, export="ok") == reason("fp8", H100, sft="ok") == ""
    assert reason("fp8", dataclasses.replace(H100, gpus=(Gpu("A100", "", "", (8, 0)),)), sft="ok").startswith(
        "the GPU has no"
    )
    one = dataclasses.replace(H100, gpus=H100.gpus[:1])
    assert [reason("layout", m, sft="ok") for m in (CPU, one, H100)] == ["no NVIDIA GPU", "one GPU", ""]
    assert reason("resume", CPU, quick=True, sft="ok", export="ok") == "left out by --quick"
    assert reason("dpo", CPU, sft="failed") == "needs sft, which did not pass"
    assert reason("sft", CPU) == reason("sft", H100) == ""
    login = dataclasses.replace(CPU, transformer_engine=True, vllm=True)
    assert reason("sft", login) == reason("dpo", login) != ""
    assert reason("vllm", login, export="not here") == "needs export, which did not pass"


def test_a_machine_trains_with_as_many_gpus_as_fit_the_global_batch():
    assert CPU.processes == 2
    assert [dataclasses.replace(H100, gpus=H100.gpus[:1] * n).processes for n in (1, 3, 8, 16)] == [1, 2, 8, 8]
    assert H100.fp8_recipes == ("delayed", "tensorwise", "blockwise")
    mixed = dataclasses.replace(H100, gpus=(Gpu("L40S", "", "", (8, 9)), *H100.gpus))
    assert (mixed.fp8_recipes, CPU.fp8_recipes) == (("delayed", "tensorwise"), ())


@pytest.mark.parametrize("gpus", [1, 2, 8])
def test_its_stages_need_no_more_gpus_than_there_are(tmp_path: Path, gpus: int):
    """Its config's two engines were refused on a machine with one GPU, and with them every check after."""
    here = place(tmp_path, dataclasses.replace(H100, gpus=H100.gpus[:gpus]))
    cfg = compose("tiny", training.settings(here, "bf16"))
    check_gpus(cfg, [Ref("pretrain", 0), Ref("eft", 0), Ref("sft", 0), Ref("pairs", 1), Ref("dpo", 1)], gpus)


def test_the_exit_code_says_whether_something_that_applies_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    found = {"files": "ok", "collective": "ok"}

    def run(check: Check, where: Place) -> Result:
        return Result(check.name, check.what, found.get(check.name, "not here"), "no [bold] reason", 1.0)  # type: ignore[arg-type]

    monkeypatch.setattr(verb, "run_check", run)
    monkeypatch.setattr(verb, "machine", lambda: CPU)
    monkeypatch.setattr(verb, "console", lambda: Console(width=200))
    directory, answer = tmp_path / "doctor", tmp_path / "found.json"
    assert verb.doctor(directory, quick=True, json_file=answer) == 0
    assert not directory.exists()
    assert json.loads(answer.read_text())["fit"] is True
    found["collective"] = "failed"
    assert verb.doctor(directory, quick=True, json_file=answer) == 1
    assert directory.exists()  # with the logs
    read = json.loads(answer.read_text())
    assert read["fit"] is False
    assert [c["status"] for c in read["checks"] if c["name"] == "collective"] == ["failed"]
    assert read["inventory"]["Python"]
    shown = capsys.readouterr().out
    assert "no [bold] reason" in shown
    assert "[4/14] collective" in shown


def test_gpus_that_torch_does_not_use_are_said_to_be_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(verb, "run_check", lambda check, where: Result(check.name, check.what, "ok"))
    words = {}
    for unused in (0, 2):
        monkeypatch.setattr(verb, "machine", lambda unused=unused: dataclasses.replace(CPU, unused=unused))
        assert verb.doctor(tmp_path / "doctor", quick=True, json_file=tmp_path / "found.json") == 0
        assert json.loads((tmp_path / "found.json").read_text())["gpus_not_checked"] == unused
        words[unused] = capsys.readouterr().err
    assert "NOT checked" not in words[0]
    assert "2 GPUs of this machine were NOT checked" in words[2]
    assert "make venv-gpu" in words[2]


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_doctor_stops_at_a_gpu_environment_that_is_not_finished(tmp_path: Path):
    """It took the environment for CPUs, which checks no GPU and calls the machine fit."""
    (tmp_path / ".venv-gpu").mkdir()
    command = ["make", "-C", str(tmp_path), "-f", str(ROOT / "Makefile"), "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert ".venv-gpu is not finished: run `make venv-gpu` again" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / ".venv-gpu"]


LINE = "NVIDIA H100 80GB HBM3, 580.95.05, 81559 MiB, 9.0"


def nvidia_smi(directory: Path, monkeypatch: pytest.MonkeyPatch, lines: str, seconds: float = 0.0) -> None:
    """A machine with this answer of nvidia-smi, and a torch for GPUs."""
    monkeypatch.setattr(inventory, "torch_is_for_cpus", lambda: False)
    program = directory / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nsleep {seconds}\ncat <<'END'\n{lines}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_the_gpus_are_those_that_the_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nvidia_smi(tmp_path, monkeypatch, "\n".join([LINE] * 3))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    found = inventory.inventory(tmp_path)
    assert found["GPU"] == "2 x NVIDIA H100 80GB HBM3, 81559 MiB, compute capability 9.0"
    assert found["driver"] == "580.95.05"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1234")
    assert len(inventory.machine().gpus) == 1


def test_a_torch_for_cpus_uses_none_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nvidia_smi(tmp_path, monkeypatch, LINE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(inventory, "torch_is_for_cpus", lambda: True)
    here = inventory.machine()
    assert (here.gpus, here.devices, here.unused, here.processes) == ((), 0, 1, 2)
    assert inventory.inventory(tmp_path)["GPU"].startswith("1 x NVIDIA H100")  # it is there


@pytest.mark.skipif(not inventory.torch_is_for_cpus(), reason="for the environment for CPUs")
def test_the_gpu_tests_fail_in_an_environment_for_cpus_beside_a_gpu():
    """They were skipped, which reads as if there were no GPU."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "tests/gpu/test_gpu_training.py",
        "-k",
        "replayed",
    ]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": "0"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 GPUs are here, and the installed torch is a build for CPUs: run `make test-gpu`" in done.stdout
    assert "skipped" not in done.stdout


def test_a_driver_that_does_not_answer_does_not_hang_the_inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nvidia_smi(tmp_path, monkeypatch, LINE, seconds=20)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(inventory, "COMMAND_SECONDS", 0.5)
    assert inventory.inventory(tmp_path)["GPU"] == ""


def test_a_driver_that_fails_is_a_finding_and_no_machine_without_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """nvidia-smi that fails was an empty inventory: checked as a CPU machine, found fit."""
    from nemo_srlm.doctor import system

    nvidia_smi(tmp_path, monkeypatch, "Failed to initialize NVML: Driver/library version mismatch")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    broken = inventory.machine()
    assert (broken.gpus, broken.devices) == ((), 2)
    assert verb.not_here(BY_NAME["gpu"], place(tmp_path, broken), True, {}) == ""
    with pytest.raises(checks.Failed, match="shows 0 of the 2 GPUs"):
        system.gpu(place(tmp_path, broken))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert inventory.machine().devices == 0


def test_the_check_of_the_gpus_reports_the_libraries_that_torch_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In an NVIDIA image they are no distributions of pip, so that the inventory knows nothing of them."""
    import torch

    from nemo_srlm.doctor import system

    ones, here = torch.ones, dataclasses.replace(H100, gpus=H100.gpus[:1], devices=1)
    monkeypatch.setattr(torch, "ones", lambda *size, dtype, device: ones(*size, dtype=dtype))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 29, 7))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92000)
    found = system.gpu(place(tmp_path, here))
    assert (found["GPUs"], found["NCCL"], found["cuDNN"]) == (1, "2.29.7", "92000")


def test_only_a_directory_of_its_own_is_emptied(tmp_path: Path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "weeks_of_work").touch()
    with pytest.raises(UserError, match="holds other files"):
        verb.doctor(tmp_path / "runs", quick=True, json_file=None)
    with pytest.raises(UserError, match="holds other files"):
        verb.doctor(tmp_path / "runs" / "weeks_of_work", quick=True, json_file=None)
    assert (tmp_path / "runs" / "weeks_of_work").exists()
    (tmp_path / "earlier").mkdir()
    verb.check_arguments(tmp_path / "earlier", None)
    (tmp_path / "earlier" / verb.MARK).touch()
    (tmp_path / "earlier" / "sft.log").touch()
    verb.check_arguments(tmp_path / "earlier", None)


@pytest.mark.parametrize(
    ("file", "words"), [("doctor/found.json", "inside"), ("none/found.json", "cannot be written"), (".", "cannot")]
)
def test_a_json_file_that_would_be_lost_is_refused_before_the_checks(tmp_path: Path, file: str, words: str):
    with pytest.raises(UserError, match=words):
        verb.doctor(tmp_path / "doctor", quick=True, json_file=tmp_path / file)


def test_an_interrupted_doctor_leaves_no_training_behind(tmp_path: Path):
    """The check's process is killed with its parent; the launcher that it started must end with it."""
    code = f"""
import pathlib, sys
from nemo_srlm.doctor import training
from nemo_srlm.doctor.check import Place
from nemo_srlm.doctor.inventory import Machine
hang = "import os, pathlib, time; pathlib.Path({str(tmp_path / "started")!r}).touch(); time.sleep(600)"
training.command = lambda *_: [sys.executable, "-c", hang]
training.run_stages(Place(pathlib.Path({str(tmp_path)!r}), Machine((), False, False), 5), "bf16", ("sft",))
"""
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    until = time.monotonic() + 120
    while not (tmp_path / "started").exists() and child.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert (tmp_path / "started").exists()
    child.kill()
    child.wait()
    assert left_by(child.pid) == []
