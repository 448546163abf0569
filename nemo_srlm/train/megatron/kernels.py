"""CPU implementations of what Megatron leaves to fused CUDA kernels: RMSNorm, SwiGLU, RoPE with packed attention.

Each is one autograd function with as few passes over memory as possible, for float32 and bfloat16. On a GPU Transformer
Engine's kernels are used instead. Shapes: T positions, H heads, D head size, F feed-forward size.
"""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

Look = tuple[slice, slice]  # (positions of queries, positions of keys): each query sees every key

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        inverse = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        normal = (wide * inverse).to(x.dtype)
        ctx.save_for_backward(normal, inverse, weight)
        return normal * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        normal, inverse, weight = ctx.saved_tensors
        product = grad * normal
        grad_weight = product.flatten(0, -2).sum(0)
        # with g' = grad * weight and y = x / rms: dx = (g' - y * mean(g' y)) / rms
        mean = torch.mv(product.flatten(0, -2), weight).view_as(inverse).div_(normal.shape[-1])
        grad_x = (grad * weight).addcmul_(normal, mean.to(normal.dtype), value=-1.0).mul_(inverse.to(normal.dtype))
        return grad_x, grad_weight, None


class RMSNorm(torch.nn.Module):
    """Root mean square norm, marked so that Megatron sums its gradient over a sequence-parallel group."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.eps = eps
        device = "cpu" if config.use_cpu_initialization else torch.device("cuda", torch.cuda.current_device())
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=device))
        setattr(self.weight, "sequence_parallel", config.sequence_parallel)  # noqa: B010 - Megatron's mark

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _RMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]  # torch types no apply
        return out


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        activated = F.silu(gate)
        ctx.save_for_backward(x, activated)
        return activated * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, activated = ctx.saved_tensors
        gate, up = x.chunk(2, dim=-1)
        out = torch.empty_like(x)
        grad_gate, grad_up = out.chunk(2, dim=-1)
        torch.mul(grad, activated, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return out


class SwiGLU(MegatronModule):  # type: ignore[misc]  # megatron is not typed
    """[.., 2F] -> [.., F]: silu(gate) * up, as the activation module of Megatron's MLP."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config=config)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _SwiGLU.apply(x)  # type: ignore[no-untyped-call]  # torch types no apply
        return out


def rotate(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor, sign: float = 1.0) -> Tensor:
    """RoPE on halves of the head (Llama's order), out of place; sign -1 undoes it. cos, sin: [T, 1, D/2]."""
    out = torch.empty(x_THD.shape, dtype=x_THD.dtype)
    x1, x2 = x_THD.chunk(2, dim=-1)
    y1, y2 = out.chunk(2, dim=-1)
    torch.mul(x1, cos_TD, out=y1)
    torch.mul(x2, cos_TD, out=y2)
    y1.addcmul_(x2, sin_TD, value=-sign)
    y2.addcmul_(x1, sin_TD, value=sign)
    return out


class _PackedCausal(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor,
        sin: Tensor,
        runs: list[tuple[int, int]],
        looks: list[Look],
    ) -> Tensor:
        q, k, v = rotate(q, cos, sin), rotate(k, cos, sin), v.contiguous()
        outs, sums = torch.empty_like(q), torch.empty(q.shape[:2], dtype=torch.float32)
        for q_run, k_run, v_run, out_run, sum_run in _by_run(runs, q, k, v, outs, sums):
            out, logsumexp = _flash(q_run, k_run, v_run, 0.0, True)
            out_run.copy_(out)
            sum_run.copy_(logsumexp)
        for q_look, k_look, v_look, out_look, sum_look in _by_look(looks, (q,), (k, v), (outs, sums)):
            _merge(out_look, sum_look, *_flash(q_look, k_look, v_look, 0.0, False))
        ctx.save_for_backward(q, k, v, outs, cos, sin, sums)
        ctx.runs, ctx.looks = runs, looks
        return outs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None, None]:
        q, k, v, outs, cos, sin, sums = ctx.saved_tensors
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        grad = grad.contiguous()
        for grad_run, *kept, to_q, to_k, to_v in _by_run(ctx.runs, grad, q, k, v, outs, sums, grad_q, grad_k, grad_v):
            found = _flash_backward(grad_run, *kept, 0.0, True)
            for target, value in zip((to_q, to_k, to_v), found, strict=True):
                target.copy_(value)
        # with the output and the log-sum-exp over all keys, the kernel's gradients for some of the keys are exact
        for grad_look, q_look, k_look, v_look, out, total, to_q, to_k, to_v in _by_look(
            ctx.looks, (grad, q), (k, v), (outs, sums, grad_q), (grad_k, grad_v)
        ):
            found = _flash_backward(grad_look, q_look, k_look, v_look, out, total, 0.0, False)
            for target, value in zip((to_q, to_k, to_v), found, strict=True):
                target.add_(value)
        return rotate(grad_q, cos, sin, -1.0), rotate(grad_k, cos, sin, -1.0), grad_v, None, None, None, None


def _merge(out: Tensor, total: Tensor, more: Tensor, logsumexp: Tensor) -> None:
    """Attention over two sets of keys, in place: `out` and its log-sum-exp `total` over one, `more` over the other."""
    both = torch.logaddexp(total, logsumexp)
    out.mul_((total - both).exp_().unsqueeze(-1)).add_(more * (logsumexp - both).exp_().unsqueeze(-1))
    total.copy_(both)


def packed_causal(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, runs: list[tuple[int, int]], looks: list[Look]
) -> Tensor:  # fmt: skip
    """RoPE and causal attention of every part of a pack: q, k, v [T, H, D] -> [T, H, D], no dropout.

    `runs` are (count, length) of neighbouring parts of equal length: one kernel call each, no padding. `looks` are the
    positions that see those of a shared prefix too, all of them.
    """
    out: Tensor = _PackedCausal.apply(q, k, v, cos, sin, runs, looks)  # type: ignore[no-untyped-call]  # torch types no apply
    return out


def split(x: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """`x` in pieces of these sizes along its first dimension."""
    parts: tuple[Tensor, ...] = x.split(sizes)  # type: ignore[no-untyped-call]  # torch types no split
    return parts


def _by_run(runs: list[tuple[int, int]], *tensors: Tensor) -> Any:
    """Views [count, H, length, D] of contiguous [T, H, D] tensors, run by run."""
    sizes = [count * length for count, length in runs]
    splits = zip(*(split(x, sizes) for x in tensors), strict=True)
    for (count, length), parts in zip(runs, splits, strict=True):
        yield [p.view(count, length, *p.shape[1:]).transpose(1, 2) for p in parts]


def _by_look(looks: list[Look], *groups: tuple[Tensor, ...]) -> Any:
    """Views [1, H, length, D] of [T, H, D] tensors, look by look: of the first group and every second at the queries'
    positions, of the others at the keys'."""
    for look in looks:
        yield [x[look[i % 2]].unsqueeze(0).transpose(1, 2) for i, group in enumerate(groups) for x in group]


def equal_runs(lengths: list[int]) -> list[tuple[int, int]]:
    """Neighbouring parts of equal length as (count, length)."""
    return [(len(list(group)), length) for length, group in itertools.groupby(lengths)]
