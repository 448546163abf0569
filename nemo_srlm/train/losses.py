"""Losses: pure tensor functions that return sums and counts, so that any split of a batch gives the same gradient.

`PREFERENCES` is the table of DPO-like losses. To add one: its function, its entry, and its name among the choices of
`DpoSection.loss` (config/training.py).

Shapes: B rows, S positions, N documents of a micro-batch, R pairs. `nll` is a token's negative log-probability.
Every metric is a (sum, count) pair; its value is the sum over micro-batches and replicas divided by the count over them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_srlm.config.training import DpoSection

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
    """[N] sums of `values` over each document, without padding (segment N). Differentiable."""
    if values_BS.is_cuda:  # index_add adds in any order there, and a resumed training is to have the same bits
        return ordered_sums(values_BS, segments_BS, num_documents)
    sums = values_BS.new_zeros(num_documents + 1)
    return sums.index_add(0, segments_BS.reshape(-1), values_BS.reshape(-1))[:num_documents]


def ordered_sums(values_BS: Tensor, segments_BS: Tensor, num_documents: int) -> Tensor:
    """`sequence_sums` in one order on a GPU too, for N x B x S values in memory."""
    documents_N = torch.arange(num_documents, device=values_BS.device)
    inside_NBS = segments_BS == documents_N[:, None, None]
    return torch.where(inside_NBS, values_BS, 0.0).sum((1, 2))


# --- preference losses ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preference:
    """A loss on preference pairs, as a function of both responses' log-ratios to the reference.

    `term(chosen_R, rejected_R, section)` is the loss [R] of the pairs. Its arguments are log pi(y|x) - log pi_ref(y|x) of
    both responses, or log pi(y|x) without `needs_reference`; divided by the response's length where `per_token`, or
    where the config says dpo.length_normalised.
    `first_loss` is the loss while policy and reference are equal; None where it depends on the model.
    """

    term: Callable[[Tensor, Tensor, DpoSection], Tensor]
    needs_reference: bool = True
    first_loss: Callable[[DpoSection], float] | None = None
    per_token: bool = False


def _smoothed_log_sigmoid(logits_R: Tensor, smoothing: float) -> Tensor:
    """-log sigmoid(x), with probability `smoothing` that the preference is the other way round (conservative DPO)."""
    return -(1.0 - smoothing) * F.logsigmoid(logits_R) - smoothing * F.logsigmoid(-logits_R)


def sigmoid(chosen_R: Tensor, rejected_R: Tensor, section: DpoSection) -> Tensor:
    """DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7): -log sigmoid(beta (chosen - rejected))."""
    return _smoothed_log_sigmoid(section.beta * (chosen_R - rejected_R), section.label_smoothing)


def ipo(chosen_R: Tensor, rejected_R: Tensor, section: DpoSection) -> Tensor:
    """IPO (Azar et al. 2023, arXiv 2310.12036, eq. 17): (chosen - rejected - 1 / (2 beta))^2."""
    return ((chosen_R - rejected_R) - 1.0 / (2.0 * section.beta)) ** 2


def robust(chosen_R: Tensor, rejected_R: Tensor, section: DpoSection) -> Tensor:
    """Robust DPO (Chowdhury et al. 2024, arXiv 2403.00409): unbiased where a share e of the labels is wrong.

    ((1 - e) l(x) - e l(-x)) / (1 - 2e) with l(x) = -log sigmoid(x), x = beta (chosen - rejected), e = label_smoothing.
    """
    logits_R, noise = section.beta * (chosen_R - rejected_R), section.label_smoothing
    return (-(1.0 - noise) * F.logsigmoid(logits_R) + noise * F.logsigmoid(-logits_R)) / (1.0 - 2.0 * noise)


def apo_zero(chosen_R: Tensor, rejected_R: Tensor, section: DpoSection) -> Tensor:
    """APO-zero (D'Oosterlinck et al. 2024, arXiv 2408.06266, eq. 7): 1 - sigmoid(beta chosen) + sigmoid(beta rejected).

    It raises the likelihood of the chosen response and lowers that of the rejected one, each against the reference.
    """
    return 1.0 - torch.sigmoid(section.beta * chosen_R) + torch.sigmoid(section.beta * rejected_R)


def simpo(chosen_R: Tensor, rejected_R: Tensor, section: DpoSection) -> Tensor:
    """SimPO (Meng et al. 2024, arXiv 2405.14734, eq. 6): -log sigmoid(beta (chosen - rejected) - gamma), per token."""
    logits_R = section.beta * (chosen_R - rejected_R) - section.simpo_gamma
    return _smoothed_log_sigmoid(logits_R, section.label_smoothing)


PREFERENCES = {
    "sigmoid": Preference(sigmoid, first_loss=lambda section: math.log(2.0)),
    "ipo": Preference(ipo, first_loss=lambda section: 1.0 / (4.0 * section.beta**2)),
    "robust": Preference(robust, first_loss=lambda section: math.log(2.0)),
    "apo_zero": Preference(apo_zero, first_loss=lambda section: 1.0),
    "simpo": Preference(simpo, needs_reference=False, per_token=True),
}


def dpo(
    chosen_R: Tensor, rejected_R: Tensor, chosen_lengths_R: Tensor, rejected_lengths_R: Tensor, section: DpoSection,
    reference: tuple[Tensor, Tensor] | None, replay_nll_R: Tensor | None = None,
    weights_R: Tensor | None = None, certainty_R: Tensor | None = None,
) -> Loss:  # fmt: skip
    """Preference loss + nll_weight x mean token NLL of the chosen + replay_weight x mean token NLL of a replayed example.

    `chosen_R` and `rejected_R` are summed log-probabilities of the responses, the lengths their tokens, `reference` the
    same sums under the reference (None for a loss that needs none); `replay_nll_R` is a mean over the example's tokens.
    `weights_R` multiply a pair's preference and NLL terms, but not its replayed example (ScPO, Prasad et al. 2024, arXiv
    2411.04109). `certainty_R` are the probabilities that the preferences are this way round: the term of the pair, and
    of the pair turned round, in these proportions (CREAM, Wang et al. 2024, arXiv 2410.12735). None: all 1.
    The metrics are not weighted, but for `loss`. All terms count pairs.
    The NLL term is that of RPO (Pang et al. 2024, arXiv 2404.19733, eq. 1).
    """
    preference = PREFERENCES[section.loss]
    assert preference.needs_reference == (reference is not None)
    gain_c_R, gain_r_R = chosen_R, rejected_R
    if reference is not None:
        gain_c_R, gain_r_R = chosen_R - reference[0], rejected_R - reference[1]
    if preference.per_token or section.length_normalised:
        gain_c_R, gain_r_R = gain_c_R / chosen_lengths_R, gain_r_R / rejected_lengths_R
    difference_R = gain_c_R - gain_r_R
    preference_R = preference.term(gain_c_R, gain_r_R, section)
    if certainty_R is not None:
        turned_R = preference.term(gain_r_R, gain_c_R, section)
        preference_R = certainty_R * preference_R + (1.0 - certainty_R) * turned_R
    nll_R = -chosen_R / chosen_lengths_R
    replay_R = torch.zeros_like(nll_R) if replay_nll_R is None else replay_nll_R
    loss_R = preference_R
    if section.nll_weight:
        loss_R = loss_R + section.nll_weight * nll_R
    if weights_R is not None:
        loss_R = weights_R * loss_R
    if section.replay_weight:
        loss_R = loss_R + section.replay_weight * replay_R
    count = chosen_R.new_tensor(float(len(chosen_R)))
    values = {
        "loss": loss_R, "dpo_loss": preference_R, "nll_loss": nll_R, "replay_loss": replay_R,
        "accuracy": (difference_R > 0).float() + 0.5 * (difference_R == 0).float(), "margin": section.beta * difference_R,
        "chosen_reward": section.beta * gain_c_R, "rejected_reward": section.beta * gain_r_R,
        "chosen_logp": chosen_R, "rejected_logp": rejected_R,
        "chosen_length": chosen_lengths_R, "rejected_length": rejected_lengths_R,
    }  # fmt: skip
    return Loss(loss_R.sum(), count, {name: (v.detach().sum(), count) for name, v in values.items()})
