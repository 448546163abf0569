"""Transformer Engine's layers hold the weights that the conversion writes, for every family (te_families.py)."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit import tiny_llama

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not importlib.util.find_spec("transformer_engine"), reason="Transformer Engine is not installed")
def test_transformer_engines_layers_have_the_conversions_keys_and_shapes():
    command = [sys.executable, "-W", "ignore", "-m", "tests.pipeline.te_families"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.split(":")[0] for line in done.stdout.splitlines() if "tensors" in line] == list(tiny_llama.SHAPES)
