"""The worker contract: wrong command lines, and what a failed worker leaves in logs/error."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from nemo_srlm.config.generation import GenerateSection
from nemo_srlm.core.control import read_error, write_error
from nemo_srlm.core.process import ending
from nemo_srlm.core.slot import Slot
from nemo_srlm.core.stage import Ref, stage_directory
from nemo_srlm.errors import KilledError, UserError
from nemo_srlm.generate import vllm_options
from nemo_srlm.launch import contract, train_worker, worker
from nemo_srlm.launch.contract import EXIT_FAILED, EXIT_USER, Work
from nemo_srlm.launch.replicas import Replicas
from nemo_srlm.launch.slurm import step
from nemo_srlm.launch.slurm.sbatch import JobSettings

REF = Ref("judge", 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["iter0/seed", "--shard", "x"], "'x' is no shard; expected K/N with 0 <= K < N"),
        (["iter0/seed", "--shard", "8/8"], "'8/8' is no shard"),
        (["iter0/seed", "--shard", "-1/8"], "--shard"),
        (["iter0/seed", "--shard", "0/0"], "'0/0' is no shard"),
        (["iter0/nonsense"], "nonsense: no stage has this name; expected one of world, seed"),
        (["nonsense"], "'nonsense' is no stage of a run; expected iterT/STAGE"),
    ],
)
def test_a_wrong_command_line_is_one_message(words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        contract.parse(["RUN", *words])
    assert end.value.code == EXIT_USER
    assert said in capsys.readouterr().err


def test_a_worker_of_an_unknown_stage_ends_without_a_traceback(tmp_path: Path):
    words = [sys.executable, "-m", contract.WORKER, str(tmp_path), "iter0/nonsense"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_USER
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def by_worker(run_dir: Path, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(worker, "run_stage", lambda *_: work())
    given = Work(run_dir, (REF,))
    return worker.run(given, Slot(), Replicas(given))


def by_train_worker(run_dir: Path, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(train_worker, "_attempt", lambda _: work())
    return train_worker.exit_code(work, REF, stage_directory(run_dir, REF))


def by_step(run_dir: Path, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> int:
    job = JobSettings(str(run_dir), [str(REF)], "generate", 1, "", 1, 1, 1, {})
    attempt = step.Attempt("1.0", 0, 0, "localhost", 1, run_dir / "owner", run_dir / "stop")
    monkeypatch.setattr(step.JobSettings, "read", lambda _: job)
    monkeypatch.setattr(step.Attempt, "from_environment", lambda: attempt)
    monkeypatch.setattr(step, "work", lambda *_: work())
    monkeypatch.setattr(sys, "argv", ["step", str(run_dir)])
    return step.main()


@pytest.mark.parametrize("process", [by_worker, by_train_worker, by_step])
def test_every_process_of_a_stage_writes_why_it_failed(
    process: Callable[[Path, Callable[[], None], pytest.MonkeyPatch], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def fail(error: Exception) -> Callable[[], None]:
        def work() -> None:
            raise error

        return work

    def attempt(run: str, error: Exception) -> tuple[int, str]:
        run_dir = tmp_path / run
        run_dir.mkdir()
        code = process(run_dir, fail(error), monkeypatch)
        return code, read_error(stage_directory(run_dir, REF))

    assert attempt("user", UserError("dpo.beta", "much")) == (EXIT_USER, "dpo.beta: much")
    assert "error: dpo.beta: much" in capsys.readouterr().err
    code, reason = attempt("system", OSError(errno.EACCES, "refused", "/data/x"))
    assert code == EXIT_USER
    assert "/data/x: refused" in reason
    if process is by_step:  # it lives on to write the outcome
        assert attempt("bug", RuntimeError("a bug"))[0] == EXIT_FAILED
        assert "in work" in capsys.readouterr().err  # the traceback of the cause
        assert "crashed\titer1/judge: RuntimeError: a bug" in (tmp_path / "bug/outcome-0-0").read_text()
    else:
        with pytest.raises(RuntimeError, match="a bug") as raised:
            attempt("bug", RuntimeError("a bug"))
        assert raised.traceback[-1].name == "work"
    message, *places = read_error(stage_directory(tmp_path / "bug", REF)).splitlines()
    assert message == "iter1/judge: RuntimeError: a bug"
    assert places[-1].endswith(" in work")


def test_of_the_ranks_that_fail_the_first_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for error in (RuntimeError("the loss is not finite"), RuntimeError("connection closed by peer")):

        def fail(_: object, error: Exception = error) -> int:
            raise error

        monkeypatch.setattr(train_worker, "_attempt", fail)
        with pytest.raises(RuntimeError):
            train_worker.exit_code(lambda: None, REF, tmp_path)
    assert read_error(tmp_path).splitlines()[0] == "iter1/judge: RuntimeError: the loss is not finite"


def test_an_attempt_overwrites_the_reason_of_the_one_before(tmp_path: Path):
    write_error(tmp_path, "old")
    write_error(tmp_path, "new")
    assert read_error(tmp_path) == "new"


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ENFILE])
def test_a_passing_failure_of_the_system_is_no_mistake_of_the_user(tmp_path: Path, number: int):
    error = OSError(number, "words of the system", str(tmp_path / "file"))
    with pytest.raises(OSError, match="words of the system"):
        contract.record_failure(error, REF, tmp_path)
    assert "run the same command again" in next(tmp_path.rglob("error*")).read_text(encoding="utf-8")


def test_a_killed_helper_process_is_tried_again_and_explained(tmp_path: Path):
    error = KilledError("hf", f"the forward pass of megatron was {ending(-9)}", remedy="try again")
    with pytest.raises(KilledError):
        contract.record_failure(error, REF, tmp_path)
    assert "the forward pass of megatron was killed by SIGKILL" in read_error(tmp_path)


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EACCES])
def test_what_another_attempt_meets_again_is_one(tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]):
    mistake = contract.record_failure(OSError(number, "words of the system", str(tmp_path / "file")), REF, tmp_path)
    assert isinstance(mistake, UserError)
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.parametrize("in_process", [True, False])
def test_a_worker_whose_engine_is_its_own_process_does_not_wait_for_vllms_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], in_process: bool
):
    """Elsewhere the engine is closed: its processes must end first."""
    ended, closed = list[int](), list[str]()
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(worker, "runs_in_process", lambda: in_process)
    monkeypatch.setattr(worker, "serve", lambda work, slot: EXIT_USER)
    monkeypatch.setattr(Slot, "close", lambda self: closed.append("ended" if ended else "closed"))
    monkeypatch.setattr(sys, "argv", ["worker", str(tmp_path), "iter1/judge", "--replica"])
    assert worker.main() == EXIT_USER
    assert ended == ([EXIT_USER] if in_process else [])
    assert closed == ["ended" if in_process else "closed"]


def test_the_engine_is_in_the_process_on_cpus_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    assert not vllm_options.runs_in_process()
    monkeypatch.setattr(os, "environ", dict(os.environ))
    vllm_options.set_environment(GenerateSection(), on_gpu=True)
    assert not vllm_options.runs_in_process()
    vllm_options.set_environment(GenerateSection(), on_gpu=False)
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    assert not vllm_options.runs_in_process()  # a worker of other stages, whose own end may send what it has collected
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    assert vllm_options.runs_in_process()
