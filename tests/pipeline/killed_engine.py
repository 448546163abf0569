"""Starts the vLLM engine on a model and waits to be killed: `python killed_engine.py MODEL READY TENSOR_PARALLEL [SHARE]`.

SHARE: of a GPU's memory.
"""

import sys
import time
from pathlib import Path

from nemo_srlm.config.generation import GenerateSection
from nemo_srlm.generate.requests import Request, generate
from nemo_srlm.generate.vllm_engine import VllmEngine


def main() -> None:
    model, ready, width = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    share = float(sys.argv[4]) if len(sys.argv) > 4 else GenerateSection().gpu_memory
    section = GenerateSection(
        dtype="float32", max_model_len=64, max_num_seqs=4, tensor_parallel=width, gpu_memory=share
    )
    engine = VllmEngine(model, section)
    (found,) = generate(engine, [Request("r", (1, 5, 6, 7), n=1, seed=1, temperature=0.0, top_p=1.0, max_tokens=4)])
    ready.write_text(str(found))
    time.sleep(600)


if __name__ == "__main__":  # vLLM may start its processes by importing this file
    main()
