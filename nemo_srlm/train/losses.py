"""Owns the losses: pure tensor functions that return sums and counts, so any split of a batch gives the same gradient.

Shapes: B rows, S positions, N documents of a micro-batch, R pairs. `nll` is a token's negative log-probability.
Every metric is a (sum, count) pair; its value is the quotient of the two summed over micro-batches and replicas.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Metrics = dict[str, tuple[Tensor, Tensor]]
SFT_METRICS = {"loss": "weighted tokens"}
DPO_METRICS = {
    "loss": "pairs", "dpo_loss": "pairs", "nll_loss": "pairs", "replay_loss": "pairs", "accuracy": "pairs",
    "margin": "pairs", "chosen_reward": "pairs", "rejected_reward": "pairs", "chosen_logp": "pairs",
    "rejected_logp": "pairs", "chosen_length": "pairs", "rejected_length": "pairs",
}  # fmt: skip


@dataclass(frozen=True)
class Loss:
    """`total / count` over the global batch is the loss; `metrics` are sums and counts, detached."""

    total: Tensor
    count: Tensor
    metrics: Metrics


def sft(nll_BS: Tensor, weights_BS: Tensor) -> Loss:
    """Weighted next-token loss: sum of w * nll over sum of w."""
    total, count = (nll_BS * weights_BS).sum(), weights_BS.sum()
    return Loss(total, count, {"loss": (total.detach(), count)})


def sequence_sums(values_BS: Tensor, segments_BS: Tensor, num_documents: int) -> Tensor:
    """[N] sums of `values` over each document; padding (segment N) falls away. Differentiable."""
    sums = values_BS.new_zeros(num_documents + 1)
    return sums.index_add(0, segments_BS.reshape(-1), values_BS.reshape(-1))[:num_documents]


@dataclass(frozen=True)
class DpoSettings:
    """Rafailov et al. 2023 (sigmoid), Azar et al. 2023 (ipo), Pang et al. 2024 (nll_weight, RPO)."""

    beta: float = 0.1
    loss: str = "sigmoid"
    label_smoothing: float = 0.0
    length_normalised: bool = False  # log-probabilities divided by the response's length
    nll_weight: float = 0.0
    replay_weight: float = 0.0

    def __post_init__(self) -> None:
        assert self.loss in ("sigmoid", "ipo")

    def first_loss(self) -> float:
        """The preference loss while policy and reference agree: ln 2, for ipo 1 / (4 beta^2)."""
        return math.log(2.0) if self.loss == "sigmoid" else 1.0 / (4.0 * self.beta**2)


def preference(logits_R: Tensor, settings: DpoSettings) -> Tensor:
    """[R] loss of the log-ratio difference h (policy's chosen - rejected, minus the reference's)."""
    if settings.loss == "ipo":
        return (logits_R - 1.0 / (2.0 * settings.beta)) ** 2
    scaled = settings.beta * logits_R
    smooth = settings.label_smoothing
    return -(1.0 - smooth) * F.logsigmoid(scaled) - smooth * F.logsigmoid(-scaled)


def dpo(
    chosen_R: Tensor, rejected_R: Tensor, reference_chosen_R: Tensor, reference_rejected_R: Tensor,
    chosen_lengths_R: Tensor, rejected_lengths_R: Tensor, settings: DpoSettings,
    replay_nll_R: Tensor | None = None,
) -> Loss:  # fmt: skip
    """Preference loss + nll_weight x mean token NLL of the chosen + replay_weight x mean token NLL of a replayed example.

    `chosen_R` etc. are summed log-probabilities of the responses, lengths their tokens, `replay_nll_R` already a mean
    over the example's tokens. Everything counts pairs.
    """
    ones = torch.ones_like(chosen_lengths_R)
    scale_c, scale_r = (chosen_lengths_R, rejected_lengths_R) if settings.length_normalised else (ones, ones)
    chosen_gain_R = (chosen_R - reference_chosen_R) / scale_c
    rejected_gain_R = (rejected_R - reference_rejected_R) / scale_r
    logits_R = chosen_gain_R - rejected_gain_R
    preference_R = preference(logits_R, settings)
    nll_R = -chosen_R / chosen_lengths_R
    replay_R = torch.zeros_like(nll_R) if replay_nll_R is None else replay_nll_R
    loss_R = preference_R
    if settings.nll_weight:
        loss_R = loss_R + settings.nll_weight * nll_R
    if settings.replay_weight:
        loss_R = loss_R + settings.replay_weight * replay_R
    count = chosen_R.new_tensor(float(len(chosen_R)))
    values = {
        "loss": loss_R, "dpo_loss": preference_R, "nll_loss": nll_R, "replay_loss": replay_R,
        "accuracy": (logits_R > 0).float() + 0.5 * (logits_R == 0).float(), "margin": settings.beta * logits_R,
        "chosen_reward": settings.beta * chosen_gain_R, "rejected_reward": settings.beta * rejected_gain_R,
        "chosen_logp": chosen_R, "rejected_logp": rejected_R,
        "chosen_length": chosen_lengths_R, "rejected_length": rejected_lengths_R,
    }  # fmt: skip
    return Loss(loss_R.sum(), count, {name: (v.detach().sum(), count) for name, v in values.items()})
