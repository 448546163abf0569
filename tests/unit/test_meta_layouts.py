"""The 70B layouts without GPUs: every rank's model on meta tensors; the shards tile the model exactly."""

import json
import subprocess
import sys
from pathlib import Path

from nemo_srlm.config.compose import compose

ROOT = Path(__file__).resolve().parents[2]


def test_the_ranks_of_llama2_70b_hold_the_model_exactly():
    """One data-parallel replica: 4 pipeline stages x 8 tensor-parallel ranks. SFT and DPO build the same model."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tools.meta_layouts",
        "--first-replica",
        "llama2_70b",
        "--stages",
        "sft",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert found["parameters"] == 68_976_648_192
    assert (found["ranks"], found["of"]) == (32, 64)


def test_the_fp8_config_differs_in_precision_alone():
    bf16, fp8 = compose("llama2_70b"), compose("llama2_70b_fp8")
    assert (fp8.model, fp8.parallel, fp8.sft, fp8.dpo) == (bf16.model, bf16.parallel, bf16.sft, bf16.dpo)
    assert fp8.precision != bf16.precision
