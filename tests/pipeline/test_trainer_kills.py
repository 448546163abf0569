"""However a training process ends, a resumed training gives bit-identical weights and metrics. Real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("killed_trainer.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("kills")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    log = out / "log"
    with log.open("wb") as f:  # not a pipe: a process that outlives the driver would keep it open
        done = subprocess.run(
            [sys.executable, str(DRIVER), str(out)], cwd=out, env=env, stdout=f, stderr=f, timeout=900, check=False
        )  # fmt: skip
    assert done.returncode == 0, log.read_text()[-6000:]
    read: dict[str, Any] = json.loads((out / "found.json").read_text())
    return read


@pytest.mark.parametrize("how", ["killed", "async", "told", "incomplete", "out_of_time"])
def test_a_resumed_training_ends_with_the_same_weights_and_metrics(found: dict[str, Any], how: str):
    assert found[how]["code"] == found["whole"]["code"] == 0
    assert found[how]["digest"] == found["whole"]["digest"]
    assert found[how]["best"] == found["whole"]["best"]
    assert found[how]["lines"] == found["whole"]["lines"], f"seed {found[how].get('seed')}"


def test_the_kills_were_kills(found: dict[str, Any]):
    assert found["killed"]["codes"] == found["async"]["codes"] == [-9, -9, -9, -9]


def test_a_killed_trainer_leaves_no_process_behind(found: dict[str, Any]):
    assert found["killed"]["left"] == found["async"]["left"] == []


def test_only_an_asynchronous_save_forks_and_once(found: dict[str, Any]):
    assert found["killed"]["most"] == 1
    assert found["async"]["most"] == 3  # trainer, queue manager, writer


def test_sigterm_saves_and_says_that_it_is_to_be_run_again(found: dict[str, Any]):
    assert found["told"]["stopped"] == 75
    assert found["told"]["saved"] >= 1


def test_a_checkpoint_cut_short_is_skipped_with_a_warning(found: dict[str, Any]):
    assert f"{found['incomplete']['newest']}: " in found["incomplete"]["log"]
    assert "skipped for an older checkpoint" in found["incomplete"]["log"]


def test_metrics_tell_the_share_of_a_stated_peak(found: dict[str, Any]):
    line = found["whole"]["timed"]
    # model of trainer_worker.py: 6 FLOPs per weight and token; attention adds little at these lengths
    flops = 6 * (4 * 7680 + 60 * 32) * line["tokens"]
    assert flops < line["tflops"] * line["seconds"] * 1e12 < 1.2 * flops
    assert line["mfu"] == pytest.approx(line["tflops"] / 0.05, rel=1e-3)


def test_the_end_of_the_allocation_saves_after_the_step_at_hand(found: dict[str, Any]):
    assert found["out_of_time"]["stopped"] == 75
    assert found["out_of_time"]["steps"] == 1
    assert "the allocation ends" in found["out_of_time"]["log"]
