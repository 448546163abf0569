"""vLLM on a GPU: what the stages ask of it, and the memory of a killed worker. Skipped without a GPU."""

import math
import os
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest

from nemo_srlm.config.generation import GenerateSection
from nemo_srlm.config.training import ModelSection
from nemo_srlm.core.process_tree import generations
from nemo_srlm.doctor.inventory import machine
from nemo_srlm.generate.requests import Completion, Failure, Request, generate
from tests.processes import await_file, left_by, living
from tests.unit import tiny_llama

ROOT = Path(__file__).resolve().parents[2]
DRIVER = ROOT / "tests/pipeline/killed_engine.py"
MODEL = ModelSection(
    num_layers=2, hidden_size=256, ffn_hidden_size=512, num_attention_heads=4, num_query_groups=2, vocab_size=259,
    max_length=256,
)  # fmt: skip
SHARE = 0.1  # of the GPU's memory, for each engine
PROMPT = (1, *range(5, 45))
pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("vllm")
    if not machine().gpus:
        pytest.skip("no NVIDIA GPU")
    directory = tmp_path_factory.mktemp("model")
    tiny_llama.make(directory, MODEL)
    tiny_llama.make_tokenizer(directory, MODEL.vocab_size)
    return directory


def of(request_id: str, *, n: int = 1, temperature: float = 0.0, stop: tuple[str, ...] = (), score_from: int = 0,
       logprob_ids: tuple[int, ...] = ()) -> Request:  # fmt: skip
    return Request(request_id, PROMPT, n, 7, temperature, 1.0, 16, stop, logprob_ids, score_from=score_from)


def test_every_kind_of_request(model: Path):
    """Greedy, several draws, log-probabilities of chosen tokens and of the prompt, a stop string: in one engine, compiled."""
    from nemo_srlm.generate.vllm_engine import VllmEngine

    section = GenerateSection(dtype="bfloat16", max_model_len=256, max_num_seqs=16, gpu_memory=SHARE)
    engine = VllmEngine(model, section)
    asked = [of("greedy"), of("draws", n=3, temperature=1.0), of("chosen", logprob_ids=(10, 11)),
             of("prompt", score_from=30)]  # fmt: skip
    done: dict[str, list[Completion]] = {}
    for request, outcome in zip(asked, generate(engine, asked), strict=True):
        assert not isinstance(outcome, Failure), outcome
        done[request.id] = outcome
    greedy = done["greedy"][0]
    part = greedy.text[2:4]  # printable or not, some characters of the text that greedy decoding writes
    (stopped,) = generate(engine, [of("stopped", stop=(part,))])
    engine.close()

    assert len(greedy.token_ids) == 16 or greedy.finish_reason == "stop"
    assert len({d.token_ids for d in done["draws"]}) > 1
    assert all(set(position) >= {10, 11} for position in done["chosen"][0].logprobs)
    scored = done["prompt"][0].prompt_logprobs
    assert len(scored) == len(PROMPT) - 30
    assert all(value < 0 and math.isfinite(value) for value in scored)
    assert not isinstance(stopped, Failure), stopped
    assert stopped[0].text == greedy.text[: greedy.text.find(part)]


def held_by(pids: set[int]) -> int:
    """MiB of GPU memory that these processes hold, by nvidia-smi."""
    answer = subprocess.run(
        ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line.split(",") for line in answer.stdout.splitlines() if line.count(",") == 1]
    return sum(int(memory) for pid, memory in lines if int(pid) in pids)


def test_a_killed_worker_frees_its_gpu_memory(model: Path, tmp_path: Path):
    """kill -9 of the stage's process: the engine, which is another process and holds the memory, ends too."""
    ready, log = tmp_path / "ready", tmp_path / "log"
    with log.open("wb") as f:
        worker = subprocess.Popen(
            [sys.executable, str(DRIVER), str(model), str(ready), "1", str(SHARE)],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}, stdout=f, stderr=f,
            start_new_session=True,
        )  # fmt: skip
    try:
        await_file(ready, worker, log)
        assert any("VLLM::Engine" in name for name in living(worker.pid)), living(worker.pid)
        pids = set(chain.from_iterable(generations(worker.pid)))
        held = held_by(pids)
    finally:
        worker.kill()
        worker.wait()
    assert left_by(worker.pid) == []
    if not held:
        pytest.skip("nvidia-smi does not show the memory of this container's processes")
    assert held > 1024, f"the engine held {held} MiB"
    until = time.monotonic() + 20  # the driver takes its time after the processes are gone
    while held_by(pids) and time.monotonic() < until:
        time.sleep(0.1)
    assert held_by(pids) == 0
