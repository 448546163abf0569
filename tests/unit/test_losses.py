"""The losses against formulas written out by hand; every loss returns a sum and a count."""

import math

import pytest
import torch

from nemo_srlm.config.compose import compose
from nemo_srlm.config.fields import identity, rules
from nemo_srlm.config.training import DpoSection
from nemo_srlm.errors import ConfigError
from nemo_srlm.train import losses


def test_sft_weighs_tokens_and_divides_by_the_weights():
    loss = losses.sft(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.0, 1.0, 0.25]]))
    assert loss.total.item() == 3.0
    assert loss.count.item() == 1.25


def test_sums_over_documents_leave_padding_out():
    values, segments = torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([[1, 0, 1, 2]])
    assert losses.sequence_sums(values, segments, 2).tolist() == [2.0, 5.0]


def test_the_sums_that_a_gpu_makes_in_order_are_the_same_with_the_same_gradient():
    generator = torch.Generator().manual_seed(3)
    segments = torch.randint(0, 6, (2, 500), generator=generator)  # 5 is padding
    gradients = []
    for sums in (losses.sequence_sums, losses.ordered_sums):
        values = torch.randn(2, 500, generator=generator.manual_seed(4), requires_grad=True)
        found = sums(values, segments, 5)
        (found * torch.arange(1.0, 6.0)).sum().backward()
        gradients.append((found.detach(), values.grad))
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=0, atol=0)


def call(
    section: DpoSection, chosen=(-3.0, -1.0), rejected=(-4.0, -3.0), ref_c=(-3.5, -1.5), ref_r=(-3.0, -2.0), **of_pairs,
):  # fmt: skip
    as_tensor = torch.tensor
    reference = (as_tensor(ref_c), as_tensor(ref_r)) if losses.PREFERENCES[section.loss].needs_reference else None
    return losses.dpo(
        as_tensor(chosen), as_tensor(rejected), as_tensor([2.0, 4.0]), as_tensor([4.0, 2.0]), section, reference,
        replay_nll_R=as_tensor([1.0, 3.0]),
        **{name: as_tensor(values) for name, values in of_pairs.items()},
    )  # fmt: skip


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


H = [(-3.0 + 3.5) - (-4.0 + 3.0), (-1.0 + 1.5) - (-3.0 + 2.0)]  # log-ratio differences of the two pairs above


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (DpoSection(beta=0.5), sum(-log_sigmoid(0.5 * h) for h in H)),
        (DpoSection(beta=0.5, label_smoothing=0.1),
         sum(-0.9 * log_sigmoid(0.5 * h) - 0.1 * log_sigmoid(-0.5 * h) for h in H)),
        (DpoSection(beta=0.5, loss="ipo"), sum((h - 1.0) ** 2 for h in H)),
        (DpoSection(beta=0.5, length_normalised=True),
         -log_sigmoid(0.5 * (0.5 / 2 + 1.0 / 4)) - log_sigmoid(0.5 * (0.5 / 4 + 1.0 / 2))),
        (DpoSection(beta=0.5, nll_weight=2.0), sum(-log_sigmoid(0.5 * h) for h in H) + 2.0 * (3.0 / 2 + 1.0 / 4)),
        # SimPO by hand: 2 x (-3/2 + 4/4) - 0.5 = -1.5 and 2 x (-1/4 + 3/2) - 0.5 = 2; log(1 + e^1.5) + log(1 + e^-2)
        (DpoSection(beta=2.0, loss="simpo", simpo_gamma=0.5), 1.701413 + 0.126928),
        # TRL 1.16's formulas on these pairs, whose differences are 1.5 twice
        (DpoSection(beta=0.5, loss="robust", label_smoothing=0.1), 0.5862420),
        (DpoSection(beta=0.5, loss="apo_zero"), 1.6307283),
        (DpoSection(beta=0.5, replay_weight=0.3), sum(-log_sigmoid(0.5 * h) for h in H) + 0.3 * 4.0),
    ],
    ids=["sigmoid", "smoothed", "ipo", "length_normalised", "rpo", "simpo", "robust", "apo_zero", "replay"],
)  # fmt: skip
def test_each_variant_equals_its_formula(section: DpoSection, expected: float):
    loss = call(section)
    assert loss.total.item() == pytest.approx(expected, abs=1e-6)
    assert loss.count.item() == 2


def test_weights_multiply_what_a_pair_adds_but_not_its_replayed_example():
    """ScPO's weighted loss by hand, with NLL per token: 0.5 x (l + 2 x 3/2) + 2 x (l + 2 x 1/4) + 0.3 x (1 + 3)."""
    section, term = DpoSection(beta=0.5, nll_weight=2.0, replay_weight=0.3), -log_sigmoid(0.75)
    loss = call(section, weights_R=[0.5, 2.0])
    assert loss.total.item() == pytest.approx(2.5 * term + 0.5 * 3.0 + 2.0 * 0.5 + 1.2, abs=1e-6)
    assert loss.count.item() == 2  # pairs: a light pair takes part with less, as in the paper's expectation
    assert loss.metrics["dpo_loss"][0].item() == pytest.approx(2 * term)  # which the first loss is compared with


@pytest.mark.parametrize("name", ["sigmoid", "ipo", "robust", "apo_zero"])
def test_a_pair_that_is_certain_by_three_quarters_is_trained_on_turned_round_by_one_quarter(name: str):
    """CREAM: C x loss(chosen, rejected) + (1 - C) x loss(rejected, chosen)."""
    section = DpoSection(beta=0.5, loss=name, label_smoothing=0.1 if name == "robust" else 0.0)
    straight, turned = call(section), call(section, (-4.0, -3.0), (-3.0, -1.0), (-3.0, -2.0), (-3.5, -1.5))
    mixed = call(section, certainty_R=[0.75, 0.75])
    assert mixed.total.item() == pytest.approx(0.75 * straight.total.item() + 0.25 * turned.total.item(), abs=1e-6)
    equal = call(section, ref_c=(-3.0, -1.0), ref_r=(-4.0, -3.0), certainty_R=[0.6, 0.9])
    assert (equal.total / equal.count).item() == pytest.approx(first_loss(section))


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["dpo.loss=robust"], "0 with dpo.loss=robust"),
        (["dpo.loss=apo_zero", "dpo.label_smoothing=0.1"], "0.1 with dpo.loss=apo_zero"),
        (["dpo.loss=ipo", "dpo.label_smoothing=0.1"], "0.1 with dpo.loss=ipo"),
    ],
)
def test_label_smoothing_is_refused_where_the_loss_has_none_and_asked_for_where_it_is_the_loss(overrides, found: str):
    with pytest.raises(ConfigError, match=rf"dpo\.label_smoothing: {found}"):
        compose("tiny", overrides)


def first_loss(section: DpoSection) -> float:
    value = losses.PREFERENCES[section.loss].first_loss
    assert value is not None
    return value(section)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_is_ln_2_while_policy_and_reference_agree(smoothing: float):
    section = DpoSection(label_smoothing=smoothing)
    loss = call(section, chosen=(-3.0, -1.0), rejected=(-4.0, -3.0), ref_c=(-3.0, -1.0), ref_r=(-4.0, -3.0))
    assert (loss.total / loss.count).item() == pytest.approx(math.log(2)) == pytest.approx(first_loss(section))


def test_ipo_starts_at_its_own_value():
    section = DpoSection(loss="ipo", beta=0.5)
    loss = call(section, ref_c=(-3.0, -1.0), ref_r=(-4.0, -3.0))
    assert (loss.total / loss.count).item() == pytest.approx(1.0) == pytest.approx(first_loss(section))


def test_simpo_has_no_reference_no_first_loss_and_rewards_per_token():
    assert not losses.PREFERENCES["simpo"].needs_reference
    assert losses.PREFERENCES["simpo"].first_loss is None
    metrics = call(DpoSection(beta=2.0, loss="simpo")).metrics
    assert metrics["chosen_reward"][0].item() == pytest.approx(2.0 * (-3.0 / 2 - 1.0 / 4))
    assert metrics["rejected_reward"][0].item() == pytest.approx(2.0 * (-4.0 / 4 - 3.0 / 2))
    assert metrics["accuracy"][0].item() == 1.0
    ones = torch.ones(2)
    with pytest.raises(AssertionError):
        losses.dpo(ones, ones, ones, ones, DpoSection(loss="simpo"), (ones, ones))


def test_the_choices_of_the_config_are_the_losses_of_the_table():
    assert set(rules(DpoSection)["loss"].choices) == set(losses.PREFERENCES)


def test_metrics_are_sums_with_their_counts():
    metrics = call(DpoSection(beta=0.5)).metrics
    assert set(metrics) == set(losses.DPO_METRICS)
    assert [v.item() for v in metrics["accuracy"]] == [2.0, 2.0]
    assert metrics["margin"][0].item() == pytest.approx(0.5 * sum(H))
    assert metrics["chosen_reward"][0].item() == pytest.approx(0.5 * 1.0)
    assert metrics["rejected_reward"][0].item() == pytest.approx(0.5 * -2.0)


def test_a_pair_that_policy_and_reference_rate_alike_is_half_right():
    loss = call(DpoSection(), ref_c=(-3.0, -1.0), ref_r=(-4.0, -3.0))
    assert loss.metrics["accuracy"][0].item() == 1.0


def test_the_gradient_of_two_halves_is_the_gradient_of_the_whole():
    chosen = torch.randn(4, dtype=torch.float64, requires_grad=True)
    rest = [torch.randn(4, dtype=torch.float64) for _ in range(3)]
    lengths = torch.full((4,), 5.0, dtype=torch.float64)
    section = DpoSection(nll_weight=0.2)
    rejected, *reference = rest
    whole = losses.dpo(chosen, rejected, lengths, lengths, section, tuple(reference))
    (expected,) = torch.autograd.grad(whole.total / whole.count, chosen)
    halves = [
        losses.dpo(chosen[s], rejected[s], lengths[s], lengths[s], section, tuple(x[s] for x in reference))
        for s in (slice(0, 1), slice(1, 4))
    ]
    (found,) = torch.autograd.grad(sum(h.total for h in halves) / sum(h.count for h in halves), chosen)
    assert torch.allclose(found, expected, atol=1e-12)


def test_a_loss_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match=r"dpo\.loss"):
        compose("tiny", ["dpo.loss=hinge"])
    with pytest.raises(KeyError):
        call(DpoSection(loss="hinge"))


def test_the_margin_of_simpo_enters_a_fingerprint_only_when_it_is_set():
    assert "simpo_gamma" not in identity(DpoSection())
    assert identity(DpoSection(simpo_gamma=1.0))["simpo_gamma"] == 1.0
