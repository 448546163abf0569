"""Both launchers tell training ranks, and only them, how to allocate GPU memory."""

from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.core.stage import Ref
from nemo_srlm.launch.local import Session, command_for
from nemo_srlm.launch.plan import Step
from nemo_srlm.launch.slurm import step
from nemo_srlm.launch.slurm.sbatch import JobSettings
from nemo_srlm.report.display import Display

NAME = "PYTORCH_CUDA_ALLOC_CONF"
WANTED = "expandable_segments:True"


def local(run_dir: Path, stage: str, kind: str, wanted: bool) -> dict[str, str]:
    cfg = compose("tiny", [f"parallel.expandable_segments={wanted}".lower()])
    return command_for(Session(cfg, run_dir, Display(1), 0.0), Step((Ref(stage, 1),), kind, 1), 0)[1]


def slurm(run_dir: Path, stage: str, kind: str, wanted: bool) -> dict[str, str]:
    job = JobSettings(str(run_dir), [f"iter1/{stage}"], kind, 1, "", 1, 1, 1, {}, wanted)
    attempt = step.Attempt("1.0", 0, 0, "localhost", 1, run_dir / "owner", run_dir / "stop")
    return step.command(job, attempt)[1]


@pytest.mark.parametrize("launcher", [local, slurm])
def test_a_training_rank_gets_expandable_segments_unless_they_are_off(tmp_path: Path, launcher, monkeypatch):
    monkeypatch.delenv(NAME, raising=False)
    assert launcher(tmp_path, "dpo", "train", True)[NAME] == WANTED
    assert NAME not in launcher(tmp_path, "dpo", "train", False)
    assert NAME not in launcher(tmp_path, "judge", "generate", True)
    monkeypatch.setenv(NAME, "max_split_size_mb:512")
    assert launcher(tmp_path, "dpo", "train", True)[NAME] == "max_split_size_mb:512"
