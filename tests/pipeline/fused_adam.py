"""A stand-in for Transformer Engine's FusedAdam on the CPU: AdamW that keeps and restores its state as FusedAdam does.

Like transformer_engine/pytorch/optimizers/fused_adam.py (2.20): the step is counted in the parameter groups, a state holds
exp_avg and exp_avg_sq alone, and any other name in a state is a KeyError.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any
from unittest import mock

import torch
from megatron.core import optimizer as megatron_optimizer
from megatron.core.optimizer import distrib_optimizer

DTYPES = {"exp_avg": torch.float32, "exp_avg_sq": torch.float32, "master_param": torch.float32}


class FusedAdam(torch.optim.Optimizer):
    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, *, bias_correction: bool = True, adam_w_mode: bool = True,
        capturable: bool = False,
    ) -> None:  # fmt: skip
        assert adam_w_mode
        assert not capturable
        defaults = {
            "lr": lr, "bias_correction": bias_correction, "betas": betas, "eps": eps, "weight_decay": weight_decay
        }  # fmt: skip
        super().__init__(params, defaults)

    def state_dict(self) -> dict[str, Any]:
        found = super().state_dict()
        for state in found["state"].values():
            for name in state:
                DTYPES[name]
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        saved = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        own = chain.from_iterable(group["params"] for group in self.param_groups)
        for key, parameter in zip(saved, own, strict=True):
            if key in state_dict["state"]:
                values = state_dict["state"][key]
                self.state[parameter] = {name: values[name].to(DTYPES[name]).clone() for name in values}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                state["exp_avg"].lerp_(p.grad, 1 - beta1)
                state["exp_avg_sq"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                mean = state["exp_avg"] / (1 - beta1 ** group["step"])
                root = (state["exp_avg_sq"] / (1 - beta2 ** group["step"])).sqrt_().add_(group["eps"])
                p.mul_(1 - group["lr"] * group["weight_decay"]).addcdiv_(mean, root, value=-group["lr"])


@contextmanager
def in_place_of_adamw() -> Iterator[None]:
    """Within it Megatron builds its optimizers as it does where Transformer Engine is installed."""
    with (
        mock.patch.object(megatron_optimizer, "Adam", FusedAdam),
        mock.patch.object(megatron_optimizer, "USING_PYTORCH_OPTIMIZER", False),
        mock.patch.object(distrib_optimizer, "Adam", FusedAdam),
        mock.patch.object(distrib_optimizer, "HAVE_APEX_OR_TE", True),
        mock.patch.object(distrib_optimizer, "USING_TE_OPTIMIZER", True),
    ):
        yield
