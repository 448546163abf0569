"""Large libraries are imported without what they load and nothing here uses, and nothing else is changed by that."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from nemo_srlm.core.imports import without

ROOT = Path(__file__).resolve().parents[2]
MEGATRON = """
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


VLLM = """
import sys
from nemo_srlm.config.generation import GenerateSection
from nemo_srlm.generate.vllm_engine import preload
preload(GenerateSection())
assert "vllm.v1.engine.llm_engine" in sys.modules
assert "sklearn" not in sys.modules
import sklearn.metrics
"""


def check(program: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU Megatron compiles its kernels")
def test_megatron_is_imported_without_inductor_and_wandb():
    pytest.importorskip("wandb")
    check(MEGATRON)


def test_vllm_is_imported_without_sklearn():
    pytest.importorskip("vllm")
    pytest.importorskip("sklearn")
    check(VLLM)


def test_a_package_is_hidden_for_the_time_of_an_import_alone():
    assert "json" in sys.modules
    with without("json", "this_package"):
        assert find_spec("this_package") is None
        assert find_spec("json") is not None  # it was loaded before
        with pytest.raises(ModuleNotFoundError):
            import this_package  # noqa: F401
    assert "this_package" not in sys.modules
