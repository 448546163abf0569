"""The processes of a real vLLM engine end with a worker that is killed, as they must on a GPU that the next one needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.test_vllm_stages import SIZES
from tests.processes import await_file, left_by, living
from tests.unit import tiny_llama

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("killed_engine.py")
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_killed_worker_leaves_no_process_of_vllm(tmp_path: Path, method: str):
    pytest.importorskip("vllm")
    tiny_llama.make(tmp_path / "model", SIZES, "fp32")
    tiny_llama.make_tokenizer(tmp_path / "model", SIZES.vocab_size)
    env = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_WORKER_MULTIPROC_METHOD": method,
    }  # fmt: skip
    ready, log = tmp_path / "ready", tmp_path / "log"
    with log.open("wb") as f:
        worker = subprocess.Popen(
            [sys.executable, str(DRIVER), str(tmp_path / "model"), str(ready), "1"],
            cwd=tmp_path, env=env, stdout=f, stderr=f, start_new_session=True,
        )  # fmt: skip
    try:
        await_file(ready, worker, log)
        assert any("VLLM::Engine" in name for name in living(worker.pid)), living(worker.pid)
    finally:
        worker.kill()
        worker.wait()
    assert left_by(worker.pid) == []
