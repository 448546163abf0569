"""Decisions of the local launcher that need no engine: steps, commands, failed workers, the lock, durations."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.config.schema import Config
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.stage import Ref
from nemo_srlm.errors import UserError
from nemo_srlm.launch import local, lock
from nemo_srlm.launch.contract import EXIT_AGAIN, EXIT_FAILED, EXIT_USER, OVERLAP, Work, parse
from nemo_srlm.launch.local import Session, command_for
from nemo_srlm.launch.lock import locked
from nemo_srlm.launch.plan import Step, fuse
from nemo_srlm.launch.slurm import step as slurm_step
from nemo_srlm.launch.slurm.sbatch import JobSettings
from nemo_srlm.report.display import Display, duration, progress_words, rate_words


def tiny() -> Config:
    cfg = Config()
    cfg.world.enabled = True
    return cfg


def test_neighbours_share_a_process_and_training_stands_alone():
    steps = fuse(tiny(), pipeline(tiny()))
    by_first = {str(step.refs[0]): step for step in steps}
    assert [str(r) for r in by_first["iter1/prompts"].refs] == [
        "iter1/prompts", "iter0/eval_responses", "iter0/eval_reward", "iter0/eval_oracle", "iter0/eval_h2h",
        "iter1/candidates", "iter1/judge", "iter1/pairs",
    ]  # fmt: skip
    assert all(len(step.refs) == 1 for step in steps if step.kind in ("train", "convert"))
    assert by_first["iter0/report"].refs == (Ref("report", 0),)  # beside the training: nothing waits for it
    assert [ref for step in steps for ref in step.refs] == pipeline(tiny())


def test_a_sharded_stage_stands_alone():
    cfg = tiny()
    cfg.judge.shards = 4
    step = next(s for s in fuse(cfg, pipeline(cfg)) if Ref("judge", 1) in s.refs)
    assert (step.refs, step.num_shards) == ((Ref("judge", 1),), 4)


def test_a_failed_shard_is_told_with_its_own_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A killed worker leaves no reason: the end of its log is all that there is."""
    step = Step((Ref("judge", 1),), "generate", 3)
    words = "import os, sys; print('shard', sys.argv[1], flush=True); sys.argv[1] == '2' and os.kill(os.getpid(), 9)"
    monkeypatch.setattr(local, "command_for", lambda _, __, shard: ([sys.executable, "-c", words, str(shard)], {}))
    code, shard = local.run_workers(Session(tiny(), tmp_path, Display(1), 0.0), step, 0)
    assert (code, shard) == (-9, 2)
    found = str(local.failure(tmp_path, step, code, shard))
    assert f"log: {local.log_path(tmp_path, step, 2)}" in found
    assert "shard 2" in found
    assert "shard 0" not in found


def test_a_worker_that_ends_without_an_error_before_its_stage_is_done_has_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """The user's code may call os._exit(0): no manifest, no reason, and the stage behind it would be blamed."""
    step = Step((Ref("world", 0),), "cpu", 1)
    command = [sys.executable, "-c", "print('checking', flush=True); import os; os._exit(0)"]
    monkeypatch.setattr(local, "command_for", lambda *_: (command, {}))
    with pytest.raises(
        local.StageFailed, match=r"(?s)iter0/world failed: exit code 0; the end of its log:\nchecking"
    ) as failed:
        local.run_step(Session(tiny(), tmp_path, Display(1), 0.0), step, 0)
    assert failed.value.code == EXIT_FAILED


def test_a_training_step_is_a_torchrun_of_the_resolved_config(tmp_path: Path):
    cfg = tiny()
    cfg.parallel.processes = 2
    step = Step((Ref("dpo", 1),), "train", 1)
    command, env = command_for(Session(cfg, tmp_path, Display(1), 12.5), step, 0)
    assert command[1:] == [
        "-m", "nemo_srlm.launch.torchrun", str(tmp_path.resolve()), "iter1/dpo",
        "--standalone", "--nproc-per-node", "2",
    ]  # fmt: skip
    assert (env["OMP_NUM_THREADS"], env["NEMO_SRLM_STARTED"]) == (str(cfg.parallel.threads), "12.5")


def test_every_launcher_sets_what_overlapped_communication_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """For training alone; what the user or cluster.setup has set stays."""
    for name in OVERLAP:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NVTE_FWD_LAYERNORM_SM_MARGIN", "0")
    wanted = OVERLAP | {"NVTE_FWD_LAYERNORM_SM_MARGIN": "0"}
    session = Session(tiny(), tmp_path, Display(1), 0.0)
    _, local = command_for(session, Step((Ref("dpo", 1),), "train", 1), 0)
    job = JobSettings(str(tmp_path), ["iter1/dpo"], "train", 1, "", 1, 8, 1, {})
    attempt = slurm_step.Attempt("1", 0, 0, "head", 1, tmp_path, tmp_path)
    _, slurm = slurm_step.command(job, attempt)
    assert wanted.items() <= local.items()
    assert wanted.items() <= slurm.items()
    _, judging = command_for(session, Step((Ref("judge", 1),), "generate", 1), 0)
    assert not OVERLAP.keys() & judging.keys()


@pytest.mark.parametrize(
    "work",
    [
        Work(Path("/runs/r"), (Ref("candidates", 1), Ref("judge", 1))),
        Work(Path("/runs/r"), (Ref("judge", 2),), 3, 8),
        Work(Path("/runs/r"), (Ref("judge", 2),), 11, 16, replica=True),
        Work(Path("/runs/r"), (Ref("dpo", 1),)),
    ],
)
def test_a_worker_reads_from_its_command_line_what_its_launcher_wrote(work: Work):
    assert parse(work.arguments) == work


def test_a_training_on_several_nodes_is_refused_on_one_machine_before_it_starts():
    cfg = tiny()
    cfg.parallel.nodes = 2
    with pytest.raises(UserError, match=r"parallel\.nodes: 2 in a run on this machine; expected 1, or a run on Slurm"):
        local.check_here(cfg, [Ref("pretrain", 0)])
    local.check_here(cfg, [Ref("judge", 1)])  # no training


def test_a_config_for_several_nodes_is_refused_for_its_nodes_and_not_for_its_engines(monkeypatch: pytest.MonkeyPatch):
    """The 70B recipe on a node of eight GPUs: its judge wants 64, and fewer shards would not help."""
    monkeypatch.setattr(local, "usable_gpus", lambda: [str(i) for i in range(8)])
    cfg = compose("llama2_70b", ["import_hf.path=model", "seed.files=[trees.jsonl]"])
    with pytest.raises(UserError, match=r"parallel\.nodes: 4 in a run on this machine"):
        local.check_here(cfg, [Ref("judge", 1), Ref("dpo", 1)])
    with pytest.raises(UserError, match=r"64 GPUs for the engines of iter1/judge, 8 here"):
        local.check_here(cfg, [Ref("judge", 1)])


def test_a_second_run_in_the_same_directory_is_refused(tmp_path: Path):
    with locked(tmp_path), pytest.raises(UserError, match="already running"), locked(tmp_path):
        pass


def test_a_report_that_fails_stops_nothing_behind_it_and_is_said_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cfg, ran = tiny(), []

    def run_step(session: Session, step: Step, num_done: int) -> None:
        ran.append(str(step))
        if str(step) in ("iter0/report", "iter2/dpo"):
            raise local.StageFailed(f"{step} failed", EXIT_FAILED)

    monkeypatch.setattr(local, "run_step", run_step)
    session = Session(cfg, tmp_path, Display(1), 0.0)
    steps = fuse(cfg, [Ref("report", 0), Ref("dpo", 1), Ref("report", 1)])
    with pytest.raises(local.StageFailed, match="iter0/report failed"):
        local._run_steps(session, steps, 0)
    assert ran == ["iter0/report", "iter1/dpo", "iter1/report"]
    with pytest.raises(local.StageFailed, match="iter2/dpo failed"):
        local._run_steps(session, fuse(cfg, [Ref("dpo", 2), Ref("report", 2)]), 0)


@pytest.mark.parametrize(("seconds", "words"), [(None, "-"), (0.2, "0s"), (75.2, "1m15s"), (7260, "2h01m")])
def test_durations_read_well(seconds: float | None, words: str):
    assert duration(seconds) == words


@pytest.mark.parametrize(("rate", "unit", "words"), [
    (12.5, "items", "12.5/s"), (1.0, "steps", "1.0/s"), (0.01, "steps", "100.0 s/step"), (0.25, "replies", "4.0 s/reply"),
])  # fmt: skip
def test_a_slow_rate_is_given_as_seconds_for_each(rate: float, unit: str, words: str):
    assert rate_words(rate, unit) == words
    progress = {"done": 1, "total": 2, "unit": unit, "rate": rate, "eta": None, "info": {}}
    assert progress_words(progress) == f"1/2 {unit}  {words}"


@pytest.mark.parametrize(
    ("code", "said", "not_said"),
    [
        (EXIT_USER, "without a correction gives the same error", "resume"),
        (EXIT_FAILED, "tries this stage again", "resume"),
        (EXIT_AGAIN, "Run the same command again to resume", "correction"),
    ],
)
def test_running_again_is_advised_only_where_it_can_help(
    code: int, said: str, not_said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(cfg: Config, until: str) -> Path:
        raise local.StageFailed("iter0/seed failed: x", code)

    monkeypatch.setattr(local, "run", fail)
    assert local.start(tiny(), "") == code
    printed = capsys.readouterr().err
    assert said in printed
    assert not_said not in printed


def test_of_two_that_find_a_lock_file_left_behind_one_gets_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The slower one had seen the dead owner, and removed the file of the faster one."""
    held, read = tmp_path / lock.HELD, lock._owner
    dead = subprocess.Popen(["true"])
    dead.wait()
    held.write_text(json.dumps({"host": os.uname().nodename, "pid": dead.pid}))
    with contextlib.ExitStack() as faster:

        def and_then_the_other(path: Path) -> dict[str, object]:
            found = read(path)
            monkeypatch.setattr(lock, "_owner", read)
            faster.enter_context(lock._held(path, 0.0))
            return found

        monkeypatch.setattr(lock, "_owner", and_then_the_other)
        with pytest.raises(UserError, match=f"held by process {os.getpid()}"), lock._held(held, 0.0):
            pass
        assert held.exists()
    assert list(tmp_path.iterdir()) == []
