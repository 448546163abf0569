"""Launchers: which one a run belongs to, and a third one that runs steps one after another as plain child processes."""

import os
import subprocess
from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose, save_resolved_config
from nemo_srlm.config.schema import Config
from nemo_srlm.core import stage as stages
from nemo_srlm.core.stage import Ref, run_directory
from nemo_srlm.launch import contract, local, plan
from nemo_srlm.launch.launcher import LOCAL, SLURM, Launcher, launcher_of
from nemo_srlm.launch.lock import locked
from nemo_srlm.launch.slurm.jobs import FOLDER
from nemo_srlm.launch.slurm.submit import RECORD
from nemo_srlm.report.status import Look, Row
from tests.slurm.conftest import ITEMS, ROOT, TOY, texts
from tests.slurm.toy import toy_pipeline


def test_a_run_with_submitted_jobs_belongs_to_slurm_and_any_other_to_this_machine(tmp_path: Path):
    assert launcher_of(tmp_path) is LOCAL
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / RECORD).write_text("[]")
    assert launcher_of(tmp_path) is SLURM


TORCHRUN_FLAGS = ["--nnodes=1", "--node-rank=0", "--nproc-per-node=1", "--master-addr=localhost", "--master-port=1"]


def start(cfg: Config, until: str) -> int:
    """Runs the unfinished steps; returns the first exit code that is not 0."""
    run_dir = run_directory(cfg)
    with locked(run_dir):
        save_resolved_config(cfg, run_dir)
        for step in plan.fuse(cfg, plan.remaining(cfg, run_dir)):
            ref, stage = step.refs[0], toy_pipeline.load(step.refs[0].stage)
            if step.finished_by_launcher:
                stages.begin(stage, cfg, ref.iteration, run_dir)
            for shard in range(step.num_shards):
                work = contract.Work(run_dir, step.refs, shard, step.num_shards)
                train = step.kind == "train"
                command = contract.training_command(work, TORCHRUN_FLAGS) if train else contract.command(work)
                code = subprocess.run(command, env=os.environ | contract.environment(), check=False).returncode
                if code:
                    return code
            if step.finished_by_launcher:
                stages.finish(stage, stages.context(run_dir, stage, cfg, ref.iteration), run_dir)
    return contract.EXIT_DONE


def used(run_dir: Path) -> bool:
    return True


def rows(look: Look) -> tuple[list[Row], list[str]]:
    return LOCAL.rows(look)


SEQUENTIAL = Launcher(start, used, rows, local.logs)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The first three stages of the Slurm tests' pipeline: cpu, training, generation in three shards."""
    for name, value in {"PYTHONPATH": f"{TOY}:{ROOT}", "TOY_STAGES": "3", "TOY_ITEM": "0", "TOY_STEP": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(plan, "load", toy_pipeline.load)
    monkeypatch.setattr(plan, "pipeline", toy_pipeline.pipeline)
    monkeypatch.setattr("nemo_srlm.report.status.pipeline", toy_pipeline.pipeline)
    monkeypatch.setattr(contract, "TORCHRUN", "toy_torchrun")
    return compose("toy", [f"run.root={tmp_path}", "run.name=r"], TOY / "configs")


def test_a_launcher_needs_the_worker_contract_alone(toy: Config):
    assert SEQUENTIAL.start(toy, "") == 0
    run_dir = run_directory(toy)
    assert texts(run_dir / "iter1/square/squares.jsonl") == [str(i * i) for i in range(ITEMS)]
    assert {row.state for row in SEQUENTIAL.rows(Look(run_dir))[0]} == {"done"}
    assert SEQUENTIAL.logs(run_dir, Ref("square", 1)) == []  # its workers print to the launcher's own output
    assert plan.remaining(toy, run_dir) == []
