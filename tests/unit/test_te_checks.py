"""tools/te_checks.py where Transformer Engine is installed, with or without a GPU; elsewhere it says what it needs."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = importlib.util.find_spec("transformer_engine") is not None
CHECKS = ("names", "recipes", "weights", "optimizer")


def run() -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "ignore", "-m", "tools.te_checks"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.skipif(not HERE, reason="Transformer Engine is not installed")
def test_every_check_holds():
    done = run()
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert {f["check"]: f["status"] for f in found} == dict.fromkeys(CHECKS, "ok"), done.stdout
    assert done.returncode == 0


@pytest.mark.skipif(HERE, reason="Transformer Engine is installed")
def test_without_transformer_engine_the_tool_says_what_it_needs():
    done = run()
    assert done.returncode == 2
    assert "Transformer Engine is not installed" in done.stderr
