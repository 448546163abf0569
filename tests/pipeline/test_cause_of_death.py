"""Why a training failed reaches the user, whatever kills a rank. Two real ranks under the project's torchrun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_srlm.core.control import read_error
from nemo_srlm.core.stage import Ref, stage_directory
from nemo_srlm.launch import local
from nemo_srlm.launch.contract import EXIT_FAILED, EXIT_USER
from nemo_srlm.launch.plan import Step
from tests.pipeline.failing_rank import HOW

ROOT = Path(__file__).resolve().parents[2]
REF = Ref("sft", 0)
CAUSES = {
    "raise": (EXIT_FAILED, "RuntimeError: the loss is not finite"),
    "killed": (EXIT_FAILED, "rank 1: killed by SIGKILL"),
    "files": (EXIT_USER, "Too many open files; expected fewer open files than the limit; raise it with `ulimit -n`"),
    "size": (EXIT_USER, "File too large"),
}


@pytest.mark.parametrize("how", CAUSES)
def test_the_cause_is_in_the_message_of_the_run(tmp_path: Path, how: str):
    code, said = CAUSES[how]
    step = Step((REF,), "train", 1)
    log = local.log_path(tmp_path, step, 0)
    log.parent.mkdir()
    words = [sys.executable, "-m", "tests.pipeline.failing_rank", "--torchrun", str(tmp_path), str(REF)]
    env = {**os.environ, HOW: how, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        done = subprocess.run(
            [*words, "--standalone", "--nproc-per-node", "2"], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=file,
            stderr=file, check=False,
        )  # fmt: skip
    assert done.returncode == code, log.read_text()
    failed = local.failure(tmp_path, step, done.returncode)
    assert said in str(failed)
    assert "FAILED" not in str(failed), "torchrun's words hide the cause"
    first = read_error(stage_directory(tmp_path, REF)).splitlines()[0]
    assert "connection closed" not in first
    if how == "raise":
        assert "failing_rank.py" in str(failed)
        assert "in work" in str(failed)
