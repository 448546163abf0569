"""The DPO reference is computed in the rows of the training steps, so that its first loss is exact in bf16. Two processes."""

import math
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.reference_worker import EPOCH, ROWS
from tests.pipeline.test_saving import run_ranks

WORKER = Path(__file__).with_name("reference_worker.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_ranks(WORKER, 2, tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("name", ROWS)
def test_reference_gate_and_steps_have_the_same_rows(ranks: list[dict[str, Any]], name: str):
    """Forward passes in order: the reference over an epoch, the gate over up to eight steps of it, two epochs of training."""
    for rank in ranks:
        rows = rank[name]["rows"]
        first_epoch = rows[: len(rows) // 4]
        assert len({p for positions, _, _ in first_epoch for p in positions}) == EPOCH * 8 // 2
        for number in (1, 2):
            assert rows[number * len(first_epoch) : (number + 1) * len(first_epoch)] == first_epoch


@pytest.mark.parametrize("name", ROWS)
def test_the_first_dpo_loss_is_ln_2_in_bf16(ranks: list[dict[str, Any]], name: str):
    assert ranks[0][name]["dpo_loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_the_reference_is_kept_for_the_same_rows_and_computed_again_for_others(ranks: list[dict[str, Any]]):
    for rank in ranks:
        assert rank["same"]["after"] == rank["same"]["before"]
        before, after = rank["other"]["before"], rank["other"]["after"]
        assert (before["rows"]["packed"], after["rows"]["packed"]) == (True, False)
        assert after["logps"] != before["logps"]
        for one, other in zip(before["logps"], after["logps"], strict=True):
            assert one == pytest.approx(other, rel=0.02)


def test_the_gate_sees_a_wrong_reference_of_later_steps(ranks: list[dict[str, Any]]):
    for rank in ranks:
        assert "first loss of sigmoid" in rank["wrong"]
        assert "expected 0.693147 within 0.001" in rank["wrong"]


def test_the_reference_of_another_policy_is_that_policys_and_the_trainer_keeps_its_own_weights(
    ranks: list[dict[str, Any]],
):
    for rank in ranks:
        (before, after), (of_other, _) = rank["another"]["digests"]
        assert before == after != of_other
        beside, alone = rank["another"]["logps"]
        assert beside == alone
