"""What of Transformer Engine and apex is installed decides the kernels; what is missing or broken is said at once."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from megatron.core.models.common.embeddings import rope_utils

from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection, TrainSection
from nemo_srlm.convert import compare_logits
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.stage import Ref
from nemo_srlm.errors import UserError
from nemo_srlm.launch import train_worker
from nemo_srlm.launch.contract import Work
from nemo_srlm.train.megatron import accelerator
from nemo_srlm.train.megatron.job import Job
from nemo_srlm.train.megatron.model import transformer_config
from nemo_srlm.train.megatron.step_log import StepResult, utilisation

MODEL = ModelSection(num_layers=2, hidden_size=32, ffn_hidden_size=64, num_attention_heads=4, num_query_groups=2)


@pytest.fixture(autouse=True)
def _uncached() -> Iterator[None]:
    """Nothing remembered of Transformer Engine before and after a test."""

    def forget() -> None:
        accelerator._transformer_engine_imports.cache_clear()
        for name in [name for name in sys.modules if name.split(".")[0] == "transformer_engine"]:
            del sys.modules[name]

    forget()
    yield
    forget()


def install(monkeypatch: pytest.MonkeyPatch, root: Path, torch_part: str) -> None:
    """A package transformer_engine whose PyTorch part has this text."""
    (root / "transformer_engine" / "pytorch").mkdir(parents=True)
    (root / "transformer_engine" / "__init__.py").write_text("")
    (root / "transformer_engine" / "pytorch" / "__init__.py").write_text(torch_part)
    monkeypatch.syspath_prepend(str(root))


def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)


@pytest.mark.parametrize("error", ["FileNotFoundError", "RuntimeError", "ImportError", "AssertionError"])
def test_a_transformer_engine_installed_in_part_is_named_before_megatron_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: str
):
    install(monkeypatch, tmp_path, f"raise {error}('no shared object file')")
    with pytest.raises(UserError, match=rf"installed in part: its import fails with {error}: no shared .*uninstall"):
        train_worker.train(Work(tmp_path / "no_run", (Ref("sft", 0),)))
    accelerator._transformer_engine_imports.cache_clear()
    with pytest.raises(UserError, match="installed in part"):
        compare_logits.megatron_logits(tmp_path / "no_request", lambda: None)


def test_a_gpu_without_transformer_engine_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    gpu(monkeypatch)
    with pytest.raises(UserError, match=r"not installed, on a machine with 8 GPUs; .*CUDA_VISIBLE_DEVICES="):
        train_worker.train(Work(tmp_path / "no_run", (Ref("sft", 0),)))


def test_training_on_a_cpu_beside_transformer_engine_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Megatron's gradient norm would call its CUDA kernel in the first step."""
    install(monkeypatch, tmp_path, "")
    with pytest.raises(UserError, match=r"installed, and torch sees no GPU; .*make venv"):
        train_worker.train(Work(tmp_path / "no_run", (Ref("sft", 0),)))


def test_a_recorded_step_accumulates_no_gradient_in_a_product(monkeypatch: pytest.MonkeyPatch):
    """A recorded product would do in every micro-batch what it did in the first, which is not to add."""
    monkeypatch.setitem(sys.modules, "fused_weight_gradient_mlp_cuda", ModuleType("fused_weight_gradient_mlp_cuda"))
    gpu(monkeypatch)
    monkeypatch.setattr(accelerator, "has_transformer_engine", lambda: True)
    monkeypatch.setattr(rope_utils, "fused_apply_rotary_pos_emb", lambda: None)
    graphs = PrecisionSection(cuda_graphs="mlp")
    assert not transformer_config(MODEL, ParallelSection(processes=1), graphs).gradient_accumulation_fusion


def test_a_whole_transformer_engine_and_a_cpu_without_it_are_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    accelerator.require_kernels()
    accelerator._transformer_engine_imports.cache_clear()
    gpu(monkeypatch)
    install(monkeypatch, tmp_path, "")
    accelerator.require_kernels()
    assert accelerator.has_transformer_engine()


@pytest.mark.parametrize("extension", [False, True])
def test_gradients_are_accumulated_in_the_product_only_where_the_extension_imports(
    monkeypatch: pytest.MonkeyPatch, extension: bool
):
    name = "fused_weight_gradient_mlp_cuda"
    monkeypatch.setitem(sys.modules, name, ModuleType(name) if extension else None)  # None: the import fails
    gpu(monkeypatch)
    monkeypatch.setattr(accelerator, "has_transformer_engine", lambda: True)
    monkeypatch.setattr(rope_utils, "fused_apply_rotary_pos_emb", lambda: None)  # Megatron asks whether it is there
    made = transformer_config(MODEL, ParallelSection(processes=1), PrecisionSection())
    assert made.gradient_accumulation_fusion is extension


def test_reporting_a_step_leaves_the_training_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    parallel, asked = ParallelSection(threads=2), []
    job = Job("sft", MODEL, parallel, PrecisionSection(), TrainSection(), 0, tmp_path, None, Progress(tmp_path))
    result = StepResult(1, {"loss": 1.0}, 0.1, 1.0, 8.0, 8.0, 64.0, 8.0, 1.0, stop=False, reason="")
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert utilisation(job, result) == {}
    assert asked == []
