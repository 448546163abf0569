"""Rows in which a pair's prompt is read once give the losses and gradients of plain rows, under every layout. Two processes."""

from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.shared_prefix_worker import LAYOUTS
from tests.pipeline.test_saving import run_ranks

WORKER = Path(__file__).with_name("shared_prefix_worker.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_ranks(WORKER, 2, tmp_path_factory.mktemp("shared_prefix"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_losses_and_gradients_are_those_of_plain_rows(ranks: list[dict[str, Any]], name: str):
    for rank in ranks:
        found = rank[name]
        plain, shared = found["plain"], found["shared"]
        assert shared["loss"] == pytest.approx(plain["loss"], rel=1e-6, abs=1e-5)
        assert shared["losses"] == pytest.approx(plain["losses"], abs=1e-5)
        assert shared["norms"] == pytest.approx(plain["norms"], rel=1e-4)
        assert shared["validation"] == pytest.approx(plain["validation"], rel=1e-6, abs=1e-5)
        assert found["largest"] > 1e-2
        assert found["difference"] < 1e-5 * found["largest"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_without_the_logits_of_prompts_loss_and_gradients_are_those_with_them(ranks: list[dict[str, Any]], name: str):
    for rank in ranks:
        found = rank[name]
        assert found["loss_of_all_logits"] == pytest.approx(found["plain"]["loss"], rel=1e-6, abs=1e-5)
        assert found["difference_of_all_logits"] < 1e-5 * found["largest"]
        made, targets, made_of_all = found["logits"]
        # elsewhere a rank has a share of the positions, or no output layer
        if name in ("dp2", "dp2_one", "tp2"):
            assert targets <= made < 0.8 * made_of_all
        if name == "tp2_sp":
            assert made == made_of_all  # the layer gathers the sequence itself


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_prompt_is_read_once_in_the_steps(ranks: list[dict[str, Any]], name: str):
    for rank in ranks:
        assert rank[name]["shared"]["tokens"] < 0.85 * rank[name]["plain"]["tokens"]


def test_the_reference_is_computed_in_the_same_rows_and_its_file_says_so(ranks: list[dict[str, Any]]):
    for name in LAYOUTS:
        plain, shared = ranks[0][name]["plain"], ranks[0][name]["shared"]
        assert shared["rows"] == plain["rows"] | {"shared": True}
        for one, other in zip(shared["logps"], plain["logps"], strict=True):
            assert one == pytest.approx(other, abs=1e-4)  # of sums around 60


def test_recomputed_layers_find_the_same_rows(ranks: list[dict[str, Any]]):
    assert ranks[0]["recompute"] == pytest.approx(ranks[0]["dp2"]["shared"]["losses"], abs=1e-5)


def test_bf16_is_near_fp32(ranks: list[dict[str, Any]]):
    assert ranks[0]["bf16"] == pytest.approx(ranks[0]["dp2"]["shared"]["losses"], abs=0.02)


def test_dropout_acts_on_shared_rows(ranks: list[dict[str, Any]]):
    """The reference and its check have no dropout, so the training starts; its losses are others, of the same size."""
    losses, without = ranks[0]["dropout"], ranks[0]["dp2"]["shared"]["losses"]
    assert losses != pytest.approx(without, abs=1e-4)
    assert losses == pytest.approx(without, abs=0.3)
