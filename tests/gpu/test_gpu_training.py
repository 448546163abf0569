"""The trainer on a GPU with Transformer Engine: bf16, FP8 recipes, packed attention, ln 2. Skipped without a GPU."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from nemo_srlm.config.fp8 import recipes_of
from nemo_srlm.config.training import DpoSection, ModelSection, ParallelSection, PrecisionSection, TrainSection

pytestmark = pytest.mark.gpu

MODEL = ModelSection(
    num_layers=4, hidden_size=512, ffn_hidden_size=1024, num_attention_heads=4, num_query_groups=2, vocab_size=512,
    max_length=256,
)  # fmt: skip
SECTION = TrainSection(
    lr=1e-3,
    min_lr=1e-4,
    warmup_steps=2,
    dropout=0.0,
    global_batch=8,
    micro_batch=4,
    max_steps=6,
    max_length=256,
    save_every=0,
)


@pytest.fixture(scope="module", autouse=True)
def _gpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    pytest.importorskip("transformer_engine.pytorch", reason="no Transformer Engine")
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")


def losses(directory: Path, kind: str, precision: PrecisionSection, **section: Any) -> list[float]:
    """Losses of six steps on one GPU; DPO raises an error by itself if the first loss is not ln 2."""
    from nemo_srlm.train import metrics
    from nemo_srlm.train.megatron.dpo import fit_dpo
    from nemo_srlm.train.megatron.job import Job, start
    from nemo_srlm.train.megatron.tasks import sft_task
    from nemo_srlm.train.megatron.trainer import fit
    from tests.pipeline.trainer_worker import Silent, documents, pairs

    directory.mkdir(parents=True)
    settings = dataclasses.replace(SECTION, **section)
    parallel = ParallelSection(processes=1)
    trainer = start(Job("gpu", MODEL, parallel, precision, settings, 3, directory, None, Silent()))
    if kind == "sft":
        fit(trainer, sft_task(documents(40, 3), 7, 0.25))
    else:
        fit_dpo(trainer, pairs(24, 21), (), DpoSection())
    lines = [json.loads(line) for line in (directory / metrics.METRICS).read_text().splitlines()]
    return [line["loss"] for line in lines]


BF16 = PrecisionSection(dtype="bf16")


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_bf16_packed_attention_gives_the_losses_of_padded_rows(tmp_path: Path, kind: str):
    packed = losses(tmp_path / "packed", kind, BF16)
    assert packed == pytest.approx(losses(tmp_path / "rows", kind, BF16, packing=False), abs=0.03)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_rows_filled_to_a_budget_give_the_losses_of_packs_of_four(tmp_path: Path, kind: str):
    filled = losses(tmp_path / "filled", kind, BF16, max_tokens_per_row=128, micro_batch=1)
    assert filled == pytest.approx(losses(tmp_path / "four", kind, BF16), abs=0.03)


@pytest.mark.parametrize(
    "setting", [{"cross_entropy": "native"}, {"cross_entropy": "te"}, {"grad_reduce_in_fp32": False}]
)
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_faster_kernel_follows_the_plain_one(tmp_path: Path, kind: str, setting: dict[str, Any]):
    """DPO weighs the tokens of its responses differently, so the gradient of each must be its own."""
    faster = losses(tmp_path / "faster", kind, dataclasses.replace(BF16, **setting))
    assert faster == pytest.approx(losses(tmp_path / "plain", kind, BF16), abs=0.05)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_gradients_added_in_their_products_are_those_added_apart(tmp_path: Path, kind: str):
    """One document a row: a step has several micro-batches, of which the first overwrites the buffer."""
    rows = {"micro_batch": 1}
    together = losses(tmp_path / "together", kind, BF16, **rows)
    with mock.patch("nemo_srlm.train.megatron.model.fuse_accumulation"):
        apart = losses(tmp_path / "apart", kind, BF16, **rows)
    assert together == pytest.approx(apart, abs=0.01)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_replayed_mlps_follow_computed_ones(tmp_path: Path, kind: str):
    """Six steps, of which three are replayed, in full rows."""
    rows = {"max_tokens_per_row": 768, "micro_batch": 1}
    graphs = losses(tmp_path / "graphs", kind, dataclasses.replace(BF16, cuda_graphs="mlp"), **rows)
    assert graphs == pytest.approx(losses(tmp_path / "plain", kind, BF16, **rows), abs=0.03)


@pytest.mark.parametrize("recipe", ["delayed", "tensorwise", "blockwise"])
def test_weights_in_fp8_alone_follow_those_beside_bf16_ones(tmp_path: Path, recipe: str):
    fp8 = fp8_of(recipe)
    alone = losses(tmp_path / "alone", "sft", dataclasses.replace(fp8, fp8_param_gather=True))
    assert alone == pytest.approx(losses(tmp_path / "beside", "sft", fp8), abs=0.03)


def fp8_of(recipe: str) -> PrecisionSection:
    import torch

    if recipe not in recipes_of(torch.cuda.get_device_capability()):
        pytest.skip(f"no FP8 of this kind ({recipe}) on this GPU")
    kept = 0 if recipe == "delayed" else 1
    return PrecisionSection(dtype="bf16", fp8="hybrid", fp8_recipe=recipe, fp8_bf16_layers=kept)


@pytest.mark.parametrize("recipe", ["delayed", "tensorwise", "blockwise"])
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_fp8_follows_bf16(tmp_path: Path, kind: str, recipe: str):
    found = losses(tmp_path / "fp8", kind, fp8_of(recipe))
    assert found == pytest.approx(losses(tmp_path / "bf16", kind, BF16), abs=0.15)
