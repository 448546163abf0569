"""Loads an export in the project's vLLM engine and generates greedily. verify.py runs it as a process of its own.

python -m nemo_srlm.convert.vllm_check REQUEST.json RESULT.json
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from nemo_srlm.config.generation import GenerateSection
from nemo_srlm.convert.children import received
from nemo_srlm.core.process import die_with_named_parent
from nemo_srlm.errors import EngineError
from nemo_srlm.generate.requests import Failure, Request, generate
from nemo_srlm.generate.vllm_engine import VllmEngine

BESIDE_WEIGHTS = 8 << 30  # bytes: activations, libraries, and the cache of one short sequence
WIDEN = 2  # bf16 files, fp32 on the GPU


def gpu_share(weights: int, memory: int, most: float) -> float:
    """Share of a GPU of `memory` bytes that the check takes: what a model of `weights` bytes needs, for others use it too."""
    return min(most, (WIDEN * weights + BESIDE_WEIGHTS) / memory)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """{"greedy_ids": [...]}: the generated tokens, in fp32, without the end token."""
    ids, new_tokens = tuple(request["prompt_ids"]), int(request["new_tokens"])
    section = GenerateSection(
        dtype="float32", max_model_len=len(ids) + new_tokens, max_num_seqs=1, max_restarts=0, tensor_parallel=request["gpus"]
    )  # fmt: skip
    hf = Path(request["hf"])
    if torch.cuda.is_available():
        weights = sum(path.stat().st_size for path in hf.glob("*.safetensors"))
        memory = torch.cuda.get_device_properties(0).total_memory
        section.gpu_memory = gpu_share(weights, memory, section.gpu_memory)
    engine = VllmEngine(hf, section)
    (outcome,) = generate(engine, [Request("greedy", ids, 1, 0, 0.0, 1.0, new_tokens)])
    engine.close()
    if isinstance(outcome, Failure):
        raise EngineError(request["hf"], outcome.reason, "a greedy continuation")
    return {"greedy_ids": list(outcome[0].token_ids)}


def main() -> None:
    die_with_named_parent()
    result = run(received(Path(sys.argv[1])))
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
