"""The trainer over gloo: every layout, batch split and restart gives the same losses. All tests share two process groups."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("trainer_worker.py")
Results = dict[str, Any]


def run_group(processes: int, out: Path, *checks: str) -> Results:
    command = [
        sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
        str(WORKER), str(out), *checks,
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=out, env=env, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    return {f"{c}/{k}": v for c in checks for k, v in json.loads((out / f"{c}.json").read_text()).items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_group(2, tmp_path_factory.mktemp("two"), "batches", "resume")


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_group(4, tmp_path_factory.mktemp("four"), "layouts")


def assert_same_training(found: Results, expected: Results, tolerance: float) -> None:
    assert found["losses"] == pytest.approx(expected["losses"], abs=tolerance)
    assert found["norms"] == pytest.approx(expected["norms"], rel=10 * tolerance)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
@pytest.mark.parametrize(
    "layout", ["tp2", "tp2_sp", "pp2", "vpp2", "tp2_sp_pp2", "cp2", "cp2_tp2_sp", "plain_optimizer"]
)
def test_a_layout_does_not_change_the_losses(four: Results, kind: str, layout: str):
    assert_same_training(four[f"layouts/{kind}/{layout}"], four[f"layouts/{kind}/dp4"], 1e-4)
    if kind == "sft":
        assert four[f"layouts/sft/{layout}"]["validation"] == pytest.approx(
            four["layouts/sft/dp4"]["validation"], abs=1e-4
        )


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("layout", ["tp2", "tp2_sp_pp2"])
def test_a_layout_does_not_change_the_losses_of_another_family(four: Results, family: str, layout: str):
    found, expected = four[f"layouts/{family}/{layout}"], four[f"layouts/{family}/dp4"]
    assert_same_training(found, expected, 1e-4)
    assert expected["losses"] != pytest.approx(four["layouts/sft/dp4"]["losses"][:4], abs=1e-3)  # it is another model
    for ranks in (found["bytes"], expected["bytes"]):
        assert all(r["weights"] == r["estimate"][0] for r in ranks)


def test_tied_embeddings_of_two_stages_are_one_matrix_and_padded_rows_are_filled_up_in_validation(four: Results):
    found, expected = four["layouts/tied/pp2"], four["layouts/tied/dp4"]
    assert_same_training(found, expected, 1e-4)
    assert found["validation"] == pytest.approx(expected["validation"], abs=1e-4)
    assert expected["losses"] != pytest.approx(four["layouts/sft/dp4"]["losses"][:4], abs=1e-3)  # it is another model


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_two_replicas_train_as_four_do(two: Results, four: Results, kind: str):
    assert_same_training(two[f"batches/{kind}/micro1"], four[f"layouts/{kind}/dp4"], 1e-4)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_one_micro_batch_of_four_equals_four_of_one(two: Results, kind: str):
    assert_same_training(two[f"batches/{kind}/micro4"], two[f"batches/{kind}/micro1"], 1e-5)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
@pytest.mark.parametrize("rows", ["rows", "rows1", "filled"])
def test_packing_changes_nothing(two: Results, kind: str, rows: str):
    assert_same_training(two[f"batches/{kind}/{rows}"], two[f"batches/{kind}/micro4"], 1e-5)


def test_the_share_of_useful_positions_is_logged(two: Results):
    shares = {name: two[f"batches/dpo/{name}"]["lines"][0]["useful"] for name in ("filled", "micro4", "rows")}
    assert shares["filled"] == shares["micro4"] == 1.0  # packs without a pipeline have no padding
    assert 0.5 < shares["rows"] < 1.0


def test_rows_filled_to_a_budget_change_nothing_under_the_interleaved_schedule(four: Results):
    filled, expected = four["layouts/filled/vpp2"], four["layouts/dpo/dp4"]
    assert filled["losses"][0] == pytest.approx(expected["losses"][0], abs=1e-5)
    assert filled["norms"][0] == pytest.approx(expected["norms"][0], rel=1e-4)


def test_replicas_hold_the_same_weights(two: Results):
    assert all(len(set(result["digests"])) == 1 for result in two.values())


@pytest.mark.parametrize("variant", ["plain", "smooth", "normalised"])
def test_the_first_dpo_loss_is_ln_2(two: Results, variant: str):
    assert two[f"batches/variant/{variant}"]["losses"][0] == pytest.approx(math.log(2), abs=1e-5)


def test_the_first_ipo_loss_is_its_own(two: Results):
    assert two["batches/variant/ipo"]["losses"][0] == pytest.approx(1.0, abs=1e-4)


def test_variants_train_apart(two: Results):
    second = [two[f"batches/variant/{v}"]["losses"][2] for v in ("plain", "smooth", "normalised", "ipo", "simpo")]
    assert len({round(x, 3) for x in second}) == 5


def test_a_reference_free_loss_trains_without_a_reference(two: Results):
    simpo, plain = two["batches/variant/simpo"], two["batches/variant/plain"]
    assert plain["reference"]
    assert not simpo["reference"]
    assert simpo["losses"][-1] < simpo["losses"][0]


def test_dropout_acts_in_training_and_the_gate_still_passes(two: Results):
    assert two["batches/dropout"]["losses"][0] != pytest.approx(two["batches/dpo/micro1"]["losses"][0], abs=1e-4)


def test_bf16_is_near_fp32(two: Results):
    assert two["batches/bf16"]["losses"] == pytest.approx(two["batches/sft/micro1"]["losses"], abs=0.02)


def test_gradients_summed_in_bf16_take_half_the_memory_and_train_nearly_alike(two: Results):
    wide, narrow = two["batches/bf16"], two["batches/bf16_sums"]
    assert narrow["losses"] == pytest.approx(wide["losses"], abs=0.05)
    assert narrow["losses"] != wide["losses"]
    for one, other in zip(wide["bytes"], narrow["bytes"], strict=True):
        assert other["gradients"] * 2 == one["gradients"]
        assert other["estimate"][1] * 2 == one["estimate"][1]


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit_with_dropout(two: Results, kind: str):
    whole, resumed = two[f"resume/{kind}/whole"], two[f"resume/{kind}/resumed"]
    assert resumed["lines"] == whole["lines"]
    assert resumed["digests"] == whole["digests"]


@pytest.mark.parametrize("how", ["whole", "resumed"])
def test_keep_best_makes_the_weights_of_the_lowest_validation_loss_the_final_ones(two: Results, how: str):
    found = two[f"resume/best/{how}"]
    step, loss = min(found["checks"], key=lambda check: check[1])
    assert [s for s, _ in found["checks"]] == [1, 2, 3, 4, 5, 6]
    assert 1 < step < 6  # with the first or the last step the test would show nothing
    assert found["kept"]["step"] == step
    assert found["kept"]["loss"] == pytest.approx(loss, rel=1e-6)
    assert found["scores"] == pytest.approx(loss, rel=1e-6)
    assert found["left"] == ["final"]
    assert found["digests"] == two["resume/best/whole"]["digests"]


def test_optimizer_and_weights_resume_under_another_layout(four: Results):
    """One step with four data-parallel replicas, saved; the other five steps under TP2 + SP + PP2."""
    assert_same_training(four["layouts/resume/tp2_sp_pp2"], four["layouts/sft/dp4"], 1e-4)


@pytest.mark.parametrize("layout", ["dp4", "tp2", "pp2", "vpp2", "tp2_sp_pp2", "cp2", "plain_optimizer"])
def test_the_estimate_counts_the_bytes_that_the_ranks_hold(four: Results, layout: str):
    """Weights exact on each rank, moments exact over the ranks of a pipeline stage, gradient buffers up to Megatron's padding."""
    ranks = four[f"layouts/sft/{layout}"]["bytes"]
    assert len(ranks) == 4
    for stage in {r["stage"] for r in ranks}:
        these = [r for r in ranks if r["stage"] == stage]
        (wanted,) = {tuple(r["estimate"]) for r in these}
        weights, gradients, moments = wanted
        assert [r["weights"] for r in these] == [weights] * len(these)
        assert sum(r["optimizer"] for r in these) == moments * len(these)
        assert all(gradients <= r["gradients"] <= 1.3 * gradients for r in these)


@pytest.mark.parametrize("training", ["sft/dp4", "sft/tp2", "sft/tp2_sp", "qwen2/dp4", "qwen3/dp4"])
def test_the_estimate_is_near_what_a_layer_keeps_for_the_backward_pass(four: Results, training: str):
    found = four[f"layouts/{training}"]["layer"]
    assert found["kept"] == pytest.approx(found["estimate"], rel=0.06)


@pytest.mark.parametrize("source", ["tp2_sp_pp2", "dp4"])
def test_a_checkpoint_loads_under_another_layout(four: Results, source: str):
    """Both checkpoints hold equally trained weights, so DPO from either gives the same losses, the first one ln 2."""
    one, other = four[f"layouts/reload/{source}"], four["layouts/reload/dp4"]
    assert_same_training(one, other, 1e-4)


@pytest.mark.parametrize("how", ["full", "selective"])
def test_recomputed_activations_change_nothing(four: Results, how: str):
    assert four[f"layouts/recompute/{how}"]["losses"][0] == pytest.approx(
        four["layouts/sft/dp4"]["losses"][0], abs=1e-5
    )
    assert four[f"layouts/recompute/{how}"]["norms"][0] == pytest.approx(four["layouts/sft/dp4"]["norms"][0], rel=1e-4)
