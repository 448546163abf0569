"""A stand-in for Transformer Engine's FP8 weights on the CPU: e4m3 bytes with one scale, behind the calls that Megatron makes.

Like Float8Tensor under current scaling: it says it is bf16, computes as its dequantised values, takes values by rounding
them, and keeps those of its construction for the optimizer. Megatron's own DDP and distributed optimizer do the rest.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from megatron.core import fp8_utils
from torch import Tensor
from torch.utils._pytree import tree_map

from nemo_srlm.train.megatron import job, setup

LARGEST = torch.finfo(torch.float8_e4m3fn).max


class Fp8Weight(Tensor):
    bytes_: Tensor  # uint8, the weight's shape
    scale: Tensor  # float32, one number

    @staticmethod
    def __new__(cls, bytes_: Tensor, scale: Tensor) -> "Fp8Weight":
        made: Fp8Weight = Tensor._make_wrapper_subclass(cls, bytes_.shape, dtype=torch.bfloat16)  # type: ignore[attr-defined]
        made.bytes_, made.scale = bytes_, scale
        return made

    def dequantize(self) -> Tensor:
        return (self.bytes_.view(torch.float8_e4m3fn).float() * self.scale).bfloat16()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].bytes_, args[0].scale)
        if func is torch.ops.aten.copy_.default and isinstance(args[0], cls):
            values = args[1].dequantize() if isinstance(args[1], cls) else args[1]
            args[0].scale.copy_(scale_of(values.bfloat16().abs().max()))
            args[0].bytes_.copy_(rounded(values, args[0].scale))
            return args[0]
        plain = tree_map(lambda x: x.dequantize() if isinstance(x, cls) else x, (args, kwargs or {}))
        return func(*plain[0], **plain[1])


def scale_of(largest: Tensor) -> Tensor:
    return largest.float() / LARGEST


def rounded(values: Tensor, scale: Tensor) -> Tensor:
    return (values.bfloat16().float() / scale).to(torch.float8_e4m3fn).view(torch.uint8)


def _storage(weight: Fp8Weight, new: Tensor) -> None:
    new.copy_(weight.bytes_)
    weight.bytes_ = new


def _cast_shards(
    weights: Sequence[Fp8Weight], mains: Sequence[Any], starts: Sequence[Any], group: Any, _fsdp: Any = None
) -> None:
    for weight, main, start in zip(weights, mains, starts, strict=True):
        largest = torch.zeros(()) if main is None else main.bfloat16().abs().max().float()
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
        weight.scale.copy_(scale_of(largest))
        if main is not None:
            weight.bytes_.view(-1)[start : start + main.numel()] = rounded(main, weight.scale)


def _in_fp8(build: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """The model as Transformer Engine constructs it: the layers' matrices but the first one's in FP8, their values kept."""

    def built(*args: Any, **kwargs: Any) -> list[Any]:
        chunks = build(*args, **kwargs)
        for chunk in chunks:
            for module in [m for layer in chunk.decoder.layers if layer.layer_number > 1 for m in layer.modules()]:
                old = module._parameters.get("weight")
                if old is None or old.dim() != 2:
                    continue
                made = torch.nn.Parameter(Fp8Weight(torch.zeros(old.shape, dtype=torch.uint8), torch.ones(())))
                for name, value in vars(old).items():
                    setattr(made, name, value)
                arbitrary = torch.full(old.shape, 7.0, dtype=torch.bfloat16)
                made.get_high_precision_init_val = lambda arbitrary=arbitrary: arbitrary  # type: ignore[attr-defined]
                made.clear_high_precision_init_val = lambda: None  # type: ignore[attr-defined]
                module.weight = made
        return chunks

    return built


@contextmanager
def fp8_weights() -> Iterator[None]:
    """Within it a training with `fp8_param_gather` has such weights, though it computes in bf16 and on the CPU."""
    with (
        mock.patch.object(fp8_utils, "HAVE_TE_FP8_TENSOR_CLASS", True),
        mock.patch.object(fp8_utils, "FP8_TENSOR_CLASS", Fp8Weight),
        mock.patch.object(fp8_utils, "is_te_min_version", return_value=True),
        mock.patch.object(fp8_utils, "_modify_underlying_storage_impl", _storage),
        mock.patch.object(fp8_utils, "_quantize_param_shard_impl", _cast_shards),
        mock.patch.object(job, "build_model", _in_fp8(job.build_model)),
        mock.patch.object(setup, "check_fp8"),  # it wants Transformer Engine's FP8 beside these weights
    ):
        yield
