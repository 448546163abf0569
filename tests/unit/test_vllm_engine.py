"""The vLLM engine around vLLM: checks of a model directory, the engine's length and arguments, one engine per worker."""

import json
import os
from pathlib import Path

import pytest

from nemo_srlm.config.generation import GenerateSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core.slot import Slot
from nemo_srlm.errors import CheckpointError, EngineError
from nemo_srlm.generate import requests as generate_requests
from nemo_srlm.generate import vllm_engine as engines
from nemo_srlm.generate import vllm_options
from tests.unit.test_scheduler import Machine, requests


class Words:
    vocab_size, bos_id, eos_id = 100, 1, 2


CONFIG = {
    "vocab_size": 100, "max_position_embeddings": 128, "hidden_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_hidden_layers": 3,
}  # fmt: skip


def model(directory: Path, weights: bool = True, **changes: int) -> Path:
    (directory / "config.json").write_text(json.dumps(CONFIG | changes))
    if weights:
        (directory / "model.safetensors").write_bytes(b"x")
    return directory


def check(path: Path, **settings: int) -> int:
    section = GenerateSection(**{"max_model_len": 0, **settings})  # type: ignore[arg-type]
    return vllm_options.check_model(path, Words(), section)[1]  # type: ignore[arg-type]


def test_all_positions_of_the_model_are_the_limit_where_no_length_is_set(tmp_path: Path) -> None:
    assert check(model(tmp_path)) == 128
    assert check(model(tmp_path), max_model_len=100) == 100


def test_the_engines_length_follows_from_the_data() -> None:
    assert vllm_options.length_for([900, 1025, 17], 4096) == 2048
    assert vllm_options.length_for([1024], 4096) == 1024
    assert vllm_options.length_for([5000, 900], 4096) == 1024  # a refused request does not count
    assert vllm_options.length_for([3000], 3500) == 3500
    assert vllm_options.length_for([], 4096) == vllm_options.SHORTEST


class Started(Machine):
    def __init__(self, log: list[str], length: int) -> None:
        super().__init__(log)
        log[-1] = f"start {length}"


def test_an_engine_starts_for_the_lengths_of_its_stage_and_anew_only_for_longer_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    monkeypatch.setattr(engines, "Tokenizer", lambda path: Words())
    path = model(tmp_path, max_position_embeddings=8192)

    def backend(path: Path, section: GenerateSection, tokenizer: object, length: int) -> Started:
        return Started(log, length)

    def stages(section: GenerateSection, *longest: int) -> list[str]:
        log.clear()
        engine = engines.VllmEngine(path, section, backend)  # type: ignore[arg-type]
        for length in longest:
            if length:
                engine.expect([length])
            assert len(generate_requests.generate(engine, requests(3))) == 3
        return list(log)

    assert stages(GenerateSection(), 500, 300, 600) == ["start 512", "close", "start 1024"]
    assert stages(GenerateSection(), 500, 0) == ["start 512", "close", "start 8192"]  # no lengths given: all positions
    assert stages(GenerateSection(max_model_len=4000), 500, 6000) == ["start 4000"]


def test_precision_and_parallelism_reach_vllm_and_what_a_cpu_cannot_do_is_said(tmp_path: Path) -> None:
    section = GenerateSection(dtype="float16", quantization="fp8", tensor_parallel=4, gpu_memory=0.8)
    options = vllm_options.engine_options(tmp_path, CONFIG, 512, section, on_gpu=True)
    wanted = {
        "dtype": "float16", "quantization": "fp8", "tensor_parallel_size": 4, "gpu_memory_utilization": 0.8,
        "max_model_len": 512, "enable_prefix_caching": True, "enforce_eager": False,
    }  # fmt: skip
    assert {name: options[name] for name in wanted} == wanted
    assert "quantization" not in vllm_options.engine_options(tmp_path, CONFIG, 512, GenerateSection(), on_gpu=True)
    with pytest.raises(EngineError, match="fp8 without a GPU"):
        vllm_options.engine_options(tmp_path, CONFIG, 512, section, on_gpu=False)
    with pytest.raises(EngineError, match="heads of size 16"):
        vllm_options.engine_options(tmp_path, CONFIG, 512, GenerateSection(), on_gpu=False)


def test_vllms_processes_on_a_gpu_are_spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has looked for GPUs in the parent, after which a fork cannot use them."""
    monkeypatch.setattr(os, "environ", {})
    vllm_options.set_environment(GenerateSection(), on_gpu=True)
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"


@pytest.mark.parametrize("name", ["VLLM_USE_FLASHINFER_SAMPLER", "VLLM_ALLREDUCE_USE_FLASHINFER"])
def test_vllm_on_a_gpu_starts_without_a_cuda_compiler(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """FlashInfer's kernels, vLLM's default, are compiled while an engine starts: by nvcc and ninja, found by PATH alone."""
    monkeypatch.setattr(os, "environ", {})
    vllm_options.set_environment(GenerateSection(), on_gpu=True)
    assert os.environ[name] == "0"
    os.environ[name] = "1"
    vllm_options.set_environment(GenerateSection(), on_gpu=True)
    assert os.environ[name] == "1", "what the user says stays"


def test_a_model_directory_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="weights are missing"):
        check(model(tmp_path, weights=False))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(CheckpointError, match="model-1"):
        check(tmp_path)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        check(tmp_path / "elsewhere")


def test_a_context_longer_than_the_model_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"generate\.max_model_len=128"):
        check(model(tmp_path), max_model_len=4096)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="100 tokens"):
        check(model(tmp_path, vocab_size=99))


def test_the_cpu_cache_is_no_larger_than_full_sequences_need() -> None:
    section = GenerateSection(dtype="float32", max_num_seqs=3, kv_cache_gib=1)
    # 2 (keys, values) x 3 layers x 2 heads x head size 16 x 4 bytes, in blocks of 128 tokens, 3 sequences and one block more
    assert vllm_options.kv_cache_bytes(CONFIG, 100, section) == 2 * 3 * 2 * 16 * 4 * 128 * 4
    assert vllm_options.kv_cache_bytes(CONFIG | {"num_hidden_layers": 10**9}, 100, section) == 1 << 30


def test_one_engine_is_kept_and_replaced_when_another_model_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    class Kept:
        def __init__(self, path: Path, section: GenerateSection, backend: type) -> None:
            self.path = path

        def close(self) -> None:
            closed.append(self.path.name)

    monkeypatch.setattr(engines, "VllmEngine", Kept)
    cfg, slot = Config(), Slot()
    first = engines.shared(slot, tmp_path / "a", cfg)
    assert engines.shared(slot, tmp_path / "a", cfg) is first
    engines.shared(slot, tmp_path / "b", cfg)
    assert closed == ["a"]
    assert engines.shared(slot, tmp_path / "b", cfg, engines.VllmClassifier)  # the same files, run in another way
    assert closed == ["a", "b"]
    slot.close()
    slot.close()
    assert closed == ["a", "b", "b"]
