"""What vLLM is started with: checks of the HF directory, the engine's length, its arguments, its environment variables.

Nothing here imports vllm.
"""

import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nemo_srlm.config.generation import GenerateSection
from nemo_srlm.config.training import head_size
from nemo_srlm.core.files import read_json
from nemo_srlm.data.tokenizer import Tokenizer
from nemo_srlm.errors import CheckpointError, DataError, EngineError

CPU_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)  # head sizes that vLLM's CPU attention supports
# What FlashInfer compiles while an engine starts, by nvcc and ninja, which need not be here. Requests with seeds never use its
# sampler; its all-reduce, of an engine on 2, 4 or 8 GPUs, has no fixed order of summation.
WITHOUT_COMPILER = {"VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_ALLREDUCE_USE_FLASHINFER": "0"}
SHORTEST = 256  # tokens: a smaller max_model_len saves nothing


def _object(path: Path) -> dict[str, Any]:
    try:
        data = read_json(path)
    except DataError as error:
        raise CheckpointError(path, error.found, "a file of an HF model directory") from error
    if not isinstance(data, dict):
        raise CheckpointError(path, f"a JSON {type(data).__name__}", "an object")
    return data


def check_model(path: Path, tokenizer: Tokenizer, section: GenerateSection) -> tuple[dict[str, Any], int]:
    """(config.json, max_model_len) of an HF directory. Raises CheckpointError or EngineError before vLLM is loaded."""
    if not (path / "config.json").exists():
        raise CheckpointError(path, "no config.json", "an HF model directory")
    config = _object(path / "config.json")
    for name in ("vocab_size", "max_position_embeddings"):
        if type(config.get(name)) is not int:
            raise CheckpointError(path / "config.json", f"{name} = {config.get(name)!r}", "a whole number")
    index = path / "model.safetensors.index.json"
    if index.exists():
        listed = _object(index).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise CheckpointError(index, "no index of weights", 'JSON with "weight_map": tensor name -> file name')
        names = sorted(set(listed.values()))
    else:
        names = sorted(p.name for p in path.glob("*.safetensors"))
    if missing := [name for name in names or ["model.safetensors"] if not (path / name).is_file()]:
        raise CheckpointError(
            path, f"weights are missing: {missing[:3]}", "*.safetensors", "export the model again, or copy it whole"
        )
    if tokenizer.vocab_size > config["vocab_size"]:
        raise CheckpointError(
            path, f"its tokenizer has {tokenizer.vocab_size} tokens", f"at most vocab_size {config['vocab_size']}",
            "the tokenizer belongs to another model",
        )  # fmt: skip
    positions: int = config["max_position_embeddings"]
    if section.max_model_len > positions:
        raise EngineError(
            "generate.max_model_len", f"{section.max_model_len}", f"at most the {positions} positions of {path}",
            f"set generate.max_model_len={positions}, or 0 for what the data need",
        )  # fmt: skip
    return config, section.max_model_len or positions


def length_for(lengths: Iterable[int], most: int) -> int:
    """max_model_len for requests of these lengths (tokens): the longest, rounded up to a power of 2 so that a later stage
    often fits too. Requests longer than `most`, the model's positions, do not count: they are refused anyway."""
    longest = max((length for length in lengths if length <= most), default=0)
    return min(most, max(SHORTEST, 1 << max(longest - 1, 0).bit_length()))


def head_size_of(config: dict[str, Any]) -> int:
    """Size of an attention head by a config.json; not every one states head_dim."""
    return head_size(config["hidden_size"], config["num_attention_heads"], config.get("head_dim") or 0)


def kv_cache_bytes(config: dict[str, Any], max_model_len: int, section: GenerateSection) -> int:
    """CPU only: the section's GiB, or what max_num_seqs sequences of full length need, if that is less.

    vLLM zeroes the cache at start: a gigabyte that a tiny model never uses takes seconds.
    """
    heads, head_dim = config["num_attention_heads"], head_size_of(config)
    width = 4 if section.dtype == "float32" else 2
    per_token = 2 * config["num_hidden_layers"] * (config.get("num_key_value_heads") or heads) * head_dim * width
    blocks = math.ceil(max_model_len / 128) * 128  # the CPU's cache block
    return min(section.kv_cache_gib << 30, int(per_token * blocks * (section.max_num_seqs + 1)))


def set_environment(section: GenerateSection, on_gpu: bool) -> None:
    """Sets every environment variable that vLLM reads when it is imported."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"  # models are local directories
    os.environ["VLLM_PLUGINS"] = ""  # NeMo registers one that imports half of NeMo (3 s)
    if on_gpu:
        # a process that has asked torch for GPUs cannot use them in a fork, and vLLM does not notice that it has
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
        for name, value in WITHOUT_COMPILER.items():
            os.environ.setdefault(name, value)
        return
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # whole GiB only, and it overrides kv_cache_memory_bytes
    if section.tensor_parallel == 1:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine runs in this process: faster to start


def runs_in_process() -> bool:
    """Whether this process has imported vLLM with its engine as a part of it, by the environment of `set_environment`."""
    return "vllm" in sys.modules and os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0"


def engine_options(
    path: Path, config: dict[str, Any], max_model_len: int, section: GenerateSection, on_gpu: bool
) -> dict[str, Any]:
    """vLLM's engine arguments. Raises EngineError for settings with which vLLM would start and then crash."""
    options: dict[str, Any] = {
        "model": str(path), "dtype": section.dtype, "max_model_len": max_model_len,
        "max_num_seqs": section.max_num_seqs, "tensor_parallel_size": section.tensor_parallel,
        "enable_prefix_caching": True, "skip_tokenizer_init": True, "disable_log_stats": True, "max_logprobs": 64,
    }  # fmt: skip
    if on_gpu:
        quantized = {"quantization": section.quantization} if section.quantization else {}
        return options | quantized | {
            "enforce_eager": section.enforce_eager, "gpu_memory_utilization": section.gpu_memory,
        }  # fmt: skip
    if section.quantization:
        raise EngineError("generate.quantization", f"{section.quantization} without a GPU", '""')
    if head_size_of(config) not in CPU_HEADS:  # vLLM would crash at the first token
        raise EngineError(path, f"attention heads of size {head_size_of(config)}", f"on the CPU one of {CPU_HEADS}")
    return options | {
        "enforce_eager": True,
        "kv_cache_memory_bytes": kv_cache_bytes(config, max_model_len, section),
        # A seeded request with a split prompt crashes the CPU engine.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(max_model_len, 4096),
    }
