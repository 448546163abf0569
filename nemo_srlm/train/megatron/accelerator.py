"""The device: CUDA where there is one; else the CPU over gloo, to which Megatron's CUDA calls are then redirected.

Megatron-core is used unmodified. It names "cuda" in a few dozen places: scalars of the schedules, gradient norms, RNG
states, dtype names like `torch.cuda.FloatTensor`. On a machine without a GPU, `prepare()` redirects exactly those calls
to the CPU: factory functions read `device="cuda"` as "cpu", RNG states are the CPU generator's, synchronisation does
nothing. With a GPU nothing is replaced.
"""

import functools
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._device import _device_constructors

from nemo_srlm.core.imports import without
from nemo_srlm.errors import UserError

_FACTORIES = (
    "zeros", "ones", "empty", "full", "tensor", "arange", "rand", "randn", "randint", "eye", "as_tensor",
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like",
)  # fmt: skip
_CUDA_TYPE_NAMES = {
    torch.float32: "torch.cuda.FloatTensor",
    torch.bfloat16: "torch.cuda.BFloat16Tensor",
    torch.float16: "torch.cuda.HalfTensor",
}


@dataclass(frozen=True)
class Accelerator:
    """What the process computes on. `backend` is the torch.distributed backend that fits it."""

    kind: str  # "cuda" | "cpu"
    backend: str  # "nccl" | "gloo"

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device()) if self.kind == "cuda" else torch.device("cpu")


@functools.lru_cache(maxsize=1)
def prepare(threads: int) -> Accelerator:
    """The device of this process. Call before anything of Megatron runs. `threads` is for the CPU only."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        return Accelerator("cuda", "nccl")
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", message=".*(Apex|Transformer Engine).*")
    _redirect_cuda_calls_to_cpu()
    return Accelerator("cpu", "gloo")


def has_transformer_engine() -> bool:
    """Whether Transformer Engine computes here: it needs a GPU. Raises UserError where it is installed in part."""
    return torch.cuda.is_available() and _transformer_engine_imports()


def require_kernels() -> None:
    """Raises UserError on a GPU without Transformer Engine, and where Transformer Engine is installed in part.

    Call it before Megatron is imported: with a part of Transformer Engine Megatron's import fails, on any machine.
    """
    if not _transformer_engine_imports() and torch.cuda.is_available():
        raise UserError(
            "Transformer Engine", f"not installed, on a machine with {torch.cuda.device_count()} GPUs",
            "transformer_engine.pytorch, whose kernels training uses on a GPU",
            "install it (docs/install.md), or hide the GPUs by CUDA_VISIBLE_DEVICES= to train on the CPU",
        )  # fmt: skip


def require_gpu() -> None:
    """Raises UserError where a training would compute on the CPU with Transformer Engine's kernels (gradient norms)."""
    if _transformer_engine_imports() and not torch.cuda.is_available():
        raise UserError(
            "Transformer Engine", "installed, and torch sees no GPU",
            "a GPU to train on: Megatron takes Transformer Engine's CUDA kernels wherever it is installed",
            "train where the GPUs are, or in the CPU environment (`make venv`)",
        )  # fmt: skip


@functools.lru_cache(maxsize=1)
def _transformer_engine_imports() -> bool:
    if importlib.util.find_spec("transformer_engine") is None:
        return False
    try:
        import transformer_engine.pytorch  # noqa: F401
    except Exception as error:  # its own checks raise FileNotFoundError, RuntimeError, AssertionError and others
        raise UserError(
            "Transformer Engine", f"installed in part: its import fails with {type(error).__name__}: {error}",
            "transformer-engine, transformer_engine_cu13 and transformer_engine_torch of one version",
            "install the missing part (docs/install.md) or uninstall all of them",
        ) from error  # fmt: skip
    return True


def import_megatron() -> None:
    """Imports megatron-core where no GPU is, without what its import makes ready for GPUs alone; call it before the first
    import of megatron.core. With a GPU it does nothing.

    That is half of the import's time: its fused kernels are decorated with torch.compile, which loads Inductor (our layers
    use none of them), and its inference engine imports wandb.
    """
    if torch.cuda.is_available() or "megatron.core" in sys.modules:
        return
    compiler = torch.compile
    torch.compile = lambda function: function  # type: ignore[assignment]
    try:
        with without("wandb"):
            import megatron.core.models.gpt  # noqa: F401
    finally:
        torch.compile = compiler


def has_fused_accumulation() -> bool:
    """Whether apex's extension is here with which a matrix product adds a weight's gradient to its buffer."""
    try:
        import fused_weight_gradient_mlp_cuda  # noqa: F401
    except ImportError:
        return False
    return True


def _to_cpu(device: Any) -> Any:
    return "cpu" if device is not None and str(device).startswith("cuda") else device


def _factory_on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def on_cpu(*args: Any, **kwargs: Any) -> torch.Tensor:
        if "device" in kwargs:
            kwargs["device"] = _to_cpu(kwargs["device"])
            kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return on_cpu


def _redirect_cuda_calls_to_cpu() -> None:
    cpu = torch.device("cpu")
    _device_constructors()  # `with torch.device(...)` knows factories by identity, so it must list them before the wrapping
    for name in _FACTORIES:
        setattr(torch, name, _factory_on_cpu(getattr(torch, name)))
    plain_type = torch.Tensor.type

    def cuda_type(self: torch.Tensor, dtype: Any = None, **kwargs: Any) -> Any:
        # the distributed optimizer sorts parameters by this name
        return (
            _CUDA_TYPE_NAMES.get(self.dtype, plain_type(self)) if dtype is None else plain_type(self, dtype, **kwargs)
        )

    torch.Tensor.type = cuda_type  # type: ignore[assignment, method-assign]
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]

    nothing = lambda *args, **kwargs: None  # noqa: E731
    stand_ins: dict[str, Any] = {
        "current_device": lambda: cpu,
        "current_stream": lambda device=None: None,  # asked for by megatron-core 0.19 before each gradient reduction
        "synchronize": nothing,
        "empty_cache": nothing,
        "manual_seed": torch.default_generator.manual_seed,  # torch.manual_seed keeps a stack trace for each absent kind of GPU
        "get_rng_state": lambda device="cuda": torch.get_rng_state(),
        "set_rng_state": lambda state, device="cuda": torch.set_rng_state(state),
    }
    for name, stand_in in stand_ins.items():
        setattr(torch.cuda, name, stand_in)
    torch.cuda.random.get_rng_state = stand_ins["get_rng_state"]

    from megatron.core.tensor_parallel import random as megatron_random

    megatron_random._get_cuda_rng_state = lambda device="cuda", clone=False, graph_safe=False: torch.get_rng_state()
    megatron_random._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(state)
    # Megatron warns when the CPU generator changes inside a "CUDA" RNG context; here both are the same generator.
    logging.getLogger(megatron_random.__name__).setLevel(logging.ERROR)
