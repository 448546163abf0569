"""The layouts of the large configs without GPUs: every rank's model on meta tensors; the shards tile the model exactly."""

import json
import subprocess
import sys
from pathlib import Path

from nemo_srlm.config.compose import compose

ROOT = Path(__file__).resolve().parents[2]


SIZES = {  # config: published number of parameters, ranks of a data-parallel replica, ranks
    "llama2_70b": (68_976_648_192, 32, 32),
    "llama3_70b": (70_553_706_496, 32, 32),
    "llama3_8b": (8_030_261_248, 2, 8),
    "mistral_7b": (7_248_023_552, 2, 8),
    "qwen2_7b": (7_615_616_512, 2, 8),
    "qwen3_4b": (4_022_468_096, 1, 1),
    "smollm2_1b": (1_711_376_384, 1, 1),
}


def test_the_ranks_of_a_config_hold_the_model_exactly():
    """One data-parallel replica of each. SFT and DPO build the same model."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tools.meta_layouts",
        "--first-replica",
        *SIZES,
        "--stages",
        "sft",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {f["config"]: (f["parameters"], f["ranks"], f["of"]) for f in found} == SIZES


def test_the_fp8_config_differs_in_precision_alone():
    bf16, fp8 = compose("llama2_70b"), compose("llama2_70b_fp8")
    assert (fp8.model, fp8.parallel, fp8.sft, fp8.dpo) == (bf16.model, bf16.parallel, bf16.sft, bf16.dpo)
    assert fp8.precision != bf16.precision
