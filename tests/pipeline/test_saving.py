"""What is saved is what was trained, and no rank needs memory for more than its part. Two and four processes over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("saving_worker.py")


def run_ranks(worker: Path, processes: int, out: Path) -> list[dict[str, Any]]:
    """Runs a worker script in a process group; what each rank found."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
        str(worker), str(out),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=out, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    found: list[dict[str, Any]] = json.loads((out / "found.json").read_text())
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_ranks(WORKER, 4, tmp_path_factory.mktemp("saving"))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_ranks(WORKER, 2, tmp_path_factory.mktemp("saving_two"))


def same_bits(ranks: list[dict[str, Any]], layout: str) -> None:
    """Of the kept and the final weights and of a training checkpoint, with overlap and without, and of resumed runs."""
    for rank in ranks:
        found = rank["overlap"]
        whole, resumed = found[f"{layout}/plain/whole"], found[f"{layout}/plain/resumed"]
        assert found[f"{layout}/overlapped/whole"] == whole
        assert found[f"{layout}/overlapped/resumed"] == resumed
        assert {k: v for k, v in resumed.items() if k != "step"} == whole


@pytest.mark.parametrize("layout", ["dp2_tp2", "dp2_pp2_vpp2"])
def test_overlapped_communication_saves_the_same_weights_and_state(ranks: list[dict[str, Any]], layout: str):
    same_bits(ranks, layout)


def test_two_replicas_alone_save_the_same_with_overlapped_communication(two_ranks: list[dict[str, Any]]):
    same_bits(two_ranks, "dp2")


def test_weights_in_fp8_alone_start_from_the_exact_values_and_are_saved_exact(two_ranks: list[dict[str, Any]]):
    """`fp8_param_gather`: the matrices of three layers of four exist as FP8 bytes, under Megatron's own DDP and optimizer."""
    for rank in two_ranks:
        started, before = rank["fp8_weights"]["start"], rank["fp8_weights"]["before"]
        assert started["fp8"] == 12
        assert started["exact"] == started["weights"] > 0
        assert started["saved"] == before["final"]
        assert started["rounded"] != before["held"]


def test_a_training_with_weights_in_fp8_alone_resumes_bit_for_bit(two_ranks: list[dict[str, Any]]):
    for rank in two_ranks:
        whole, resumed = rank["fp8_weights"]["whole"], rank["fp8_weights"]["resumed"]
        assert {k: v for k, v in resumed.items() if k != "step"} == whole
        assert whole["final"] != rank["fp8_weights"]["before"]["final"]


def test_replayed_mlps_train_as_computed_ones_and_resume(two_ranks: list[dict[str, Any]]):
    """`cuda_graphs`: Megatron's helper and its replay path, with both overlaps; replays have the one shape of full rows."""
    for rank in two_ranks:
        found = rank["graphs"]
        assert found["plain replays"] == []
        assert found["whole replays"] == found["resumed replays"] == [[128, 1, 32]]
        assert found["whole"] == found["plain"]
        assert {k: v for k, v in found["resumed"].items() if k != "step"} == found["plain"]


@pytest.mark.parametrize("optimizer", ["distributed", "plain"])
def test_fused_adam_resumes_bit_for_bit(ranks: list[dict[str, Any]], optimizer: str):
    for rank in ranks:
        whole, resumed = (rank["fused_adam"][f"{optimizer}/{how}"] for how in ("whole", "resumed"))
        assert {k: v for k, v in resumed.items() if k != "step"} == whole


def test_a_checkpoint_has_the_tensors_that_megatron_gathers(ranks: list[dict[str, Any]]):
    for rank in ranks:
        assert rank["memory"]["ours"] == rank["memory"]["megatrons"]


def test_no_rank_holds_the_whole_optimizer_state_while_saving_or_loading(ranks: list[dict[str, Any]]):
    """Growth of resident memory; Megatron's gathering shows that the measurement sees a whole state."""
    whole = ranks[0]["memory"]["state"]
    assert sum(rank["memory"]["owned"] for rank in ranks) == whole
    for rank in ranks:
        found = rank["memory"]
        assert found["owned"] <= whole / 4 * 1.01
        assert found["save"] < whole / 2
        assert found["load"] < whole / 2
        assert found["gathered"] > whole
        assert found["written"] == pytest.approx(found["estimate"], rel=0.02)
