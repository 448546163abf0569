"""Without a GPU, megatron-core is imported without what it loads for GPUs alone, and nothing else is changed by that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
import torch
from nemo_srlm.train.megatron import accelerator
compiler = torch.compile
accelerator.import_megatron()
import nemo_srlm.train.megatron.trainer
assert torch.compile is compiler
assert "torch._inductor.compile_fx" not in sys.modules
assert "wandb" not in sys.modules
import wandb
from megatron.core import jit
assert jit.jit_fuser(print) is print
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU Megatron compiles its kernels")
def test_megatron_is_imported_without_inductor_and_wandb():
    pytest.importorskip("wandb")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
