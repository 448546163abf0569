"""A training that saves and exits before its end: when the local launcher starts it again, and what it says when it does not."""

import sys
import time
from pathlib import Path

import pytest

from nemo_srlm.config.schema import Config
from nemo_srlm.core.control import clear_stopped, read_stopped, stop_file, write_stopped
from nemo_srlm.core.stage import Ref, stage_directory
from nemo_srlm.launch import local, train_worker
from nemo_srlm.launch.contract import EXIT_AGAIN, EXIT_DONE
from nemo_srlm.launch.local import Session, StageFailed, run_step, stop_reason
from nemo_srlm.launch.plan import Step
from nemo_srlm.launch.slurm import step
from nemo_srlm.launch.slurm.sbatch import JobSettings
from nemo_srlm.report.display import Display
from nemo_srlm.train.megatron.trainer import Stopped

REF = Ref("pretrain", 0)
BUDGET = "the time budget of 600 minutes is over"


def session(directory: Path, budget: float = 600.0, began: float | None = None) -> Session:
    cfg = Config()
    cfg.world.enabled, cfg.run.time_budget = True, budget
    return Session(cfg, directory, Display(1), time.time() if began is None else began)


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_END_TIME", "SLURM_JOB_START_TIME", "NEMO_SRLM_STARTED"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("cause", ["SIGTERM", "x/iter0/pretrain/stop exists", ""])
def test_a_budget_that_is_not_over_is_not_why_a_training_stopped(tmp_path: Path, cause: str):
    """A budget of hours was named after any signal, and the run ended there."""
    assert stop_reason(session(tmp_path), cause) == ""


def test_a_budget_that_is_over_or_was_the_cause_is_named(tmp_path: Path):
    assert stop_reason(session(tmp_path), BUDGET) == BUDGET, "it stops before the end, by the time of a step"
    assert stop_reason(session(tmp_path, began=time.time() - 36_001), "SIGTERM") == BUDGET
    assert stop_reason(session(tmp_path, budget=0.0), "SIGTERM") == ""


def test_the_stop_file_of_the_run_comes_first(tmp_path: Path):
    stop_file(tmp_path).touch()
    assert stop_reason(session(tmp_path), "SIGTERM") == f"{stop_file(tmp_path)} exists"


def attempts(monkeypatch: pytest.MonkeyPatch, directory: Path, cause: str) -> str:
    """Runs a step whose worker always saves and exits for `cause`; the error, and a dot per attempt in the file `attempts`."""
    words = f"""
import pathlib, sys
place = pathlib.Path(sys.argv[1])
(place / "logs").mkdir(parents=True, exist_ok=True)
cause = {cause!r}
cause and (place / "logs" / "stopped").write_text(cause)
(place.parents[1] / "attempts").open("a").write(".")
sys.exit({EXIT_AGAIN})
"""
    place = stage_directory(directory, REF)
    monkeypatch.setattr(local, "command_for", lambda *_: ([sys.executable, "-c", words, str(place)], {}))
    monkeypatch.setattr(local, "POLL", 0.01)
    monkeypatch.setattr(local, "MAX_AGAIN", 3)
    monkeypatch.setattr(local.stages, "ready", lambda *_: False)
    monkeypatch.setattr(local.stages, "begin", lambda *_: None)
    with pytest.raises(StageFailed) as failed:
        run_step(session(directory), Step((REF,), "train", 1), 0)
    assert failed.value.code == EXIT_AGAIN, "running it again resumes"
    return str(failed.value)


@pytest.mark.parametrize(
    ("cause", "words"), [("SIGUSR1", "SIGUSR1"), ("", "it has written down no reason")], ids=["known", "unknown"]
)
def test_a_training_that_never_comes_to_its_end_is_given_up_with_count_cause_and_advice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cause: str, words: str
):
    """It ended with `exit code 75` and the end of a log."""
    said = attempts(monkeypatch, tmp_path, cause)
    assert (tmp_path / "attempts").read_text() == "..."
    assert f"iter0/pretrain: it has saved and exited 3 times before its end, the last time: {words}; expected" in said
    assert "find out what sends its processes SIGTERM" in said
    assert "iter0-pretrain.log" in said


def test_a_training_that_the_budget_has_ended_is_not_started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert attempts(monkeypatch, tmp_path, BUDGET) == f"iter0/pretrain has saved and stopped: {BUDGET}"
    assert (tmp_path / "attempts").read_text() == "."


def test_slurms_attempts_have_the_cause_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(step.signal, "signal", lambda *_: None)
    job = JobSettings(str(tmp_path), [str(REF)], "train", 1, "", 1, 8, 1, {})
    attempt = step.Attempt("1", 0, 0, "head", 1, tmp_path / "owner", tmp_path / "stop")
    supervisor = step.WorkerSupervisor(job, attempt)
    assert supervisor.outcome(EXIT_AGAIN, False) == ("again", "saved and exited")
    write_stopped(stage_directory(tmp_path, REF), "SIGTERM")
    assert supervisor.outcome(EXIT_AGAIN, False) == ("again", "saved and exited: SIGTERM")


def test_slurms_attempt_that_ends_without_an_error_before_its_stage_is_done_has_crashed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(step.signal, "signal", lambda *_: None)
    job = JobSettings(str(tmp_path), ["iter1/votes"], "cpu", 1, "", 1, 1, 1, {})
    attempt = step.Attempt("1", 0, 0, "head", 1, tmp_path / "owner", tmp_path / "stop")
    supervisor = step.WorkerSupervisor(job, attempt)
    assert supervisor.outcome(EXIT_DONE, False) == ("crashed", "exit code 0 before iter1/votes was done")
    done = stage_directory(tmp_path, Ref("votes", 1))
    done.mkdir(parents=True)
    (done / "manifest.json").write_text("{}")
    assert supervisor.outcome(EXIT_DONE, False) == ("done", "")


def test_the_rank_that_was_asked_to_stop_writes_down_why(tmp_path: Path):
    def stop(reason: str) -> None:
        raise Stopped("pretrain: stopped after step 3 of 9; saved", reason)

    assert train_worker.exit_code(lambda: stop("SIGTERM"), REF, tmp_path) == EXIT_AGAIN
    assert train_worker.exit_code(lambda: stop(""), REF, tmp_path) == EXIT_AGAIN, "the other ranks only follow"
    assert read_stopped(tmp_path) == "SIGTERM"
    clear_stopped(tmp_path)
    write_stopped(tmp_path / "new", BUDGET)
    assert (read_stopped(tmp_path), read_stopped(tmp_path / "new")) == ("", BUDGET)
