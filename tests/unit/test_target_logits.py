"""Which positions the output layer reads."""

import numpy as np
import pytest
import torch
from torch import nn

from nemo_srlm.train.megatron import target_logits


def test_positions_with_a_weight_are_numbered_through_the_rows_and_filled_up():
    weights_BS = np.zeros((2, 200), np.float32)
    weights_BS[0, 190:] = 0.25
    weights_BS[1, :60] = 1.0
    found = target_logits.targets(weights_BS)
    assert found is not None
    assert found.tolist() == [*range(190, 260), *range(58)]  # 70 that have a loss, up to twice 64


@pytest.mark.parametrize("without", [0, 3, 12])
def test_where_nearly_every_position_has_a_loss_nothing_is_selected(without: int):
    weights_BS = np.full((1, 77), 0.3, np.float32)
    weights_BS[0, :without] = 0.0
    assert target_logits.targets(weights_BS) is None


def test_a_rank_with_a_prompt_alone_still_takes_part():
    found = target_logits.targets(np.zeros((1, 100), np.float32))
    assert found is not None
    assert found.tolist() == [*range(64)]


class Chunk(nn.Module):
    """The end of a model: an output layer of [S, B, H], and losses that need their labels."""

    def __init__(self) -> None:
        super().__init__()
        self.output_layer = nn.Linear(2, 3, bias=False)

    def forward(self, hidden_SBH: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.output_layer(hidden_SBH)
        return logits.transpose(0, 1).sum(-1)


def test_values_and_gradients_are_those_of_all_positions_at_the_selected_ones():
    torch.manual_seed(0)
    chunk, hidden_SBH = Chunk(), torch.randn(4, 2, 2, requires_grad=True)
    weights_BS = torch.tensor([[0.0, 1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 2.0]])
    targets_K = torch.tensor([1, 2, 7])
    (plain,) = torch.autograd.grad((chunk(hidden_SBH) * weights_BS).sum(), hidden_SBH)
    with target_logits.only_at(chunk, targets_K):
        chosen_1K = chunk(hidden_SBH)
    assert chosen_1K.shape == (1, 3)
    values_BS = target_logits.spread(chosen_1K, targets_K, weights_BS)
    assert torch.equal(values_BS, chunk(hidden_SBH) * (weights_BS > 0))
    (selected,) = torch.autograd.grad((values_BS * weights_BS).sum(), hidden_SBH)
    assert torch.equal(selected, plain)
    assert chunk(hidden_SBH).shape == (2, 4)  # the hook is gone


def test_the_hook_is_gone_after_an_error():
    chunk = Chunk()
    with pytest.raises(IndexError), target_logits.only_at(chunk, torch.tensor([99])):
        chunk(torch.zeros(4, 2, 2))
    assert chunk(torch.zeros(4, 2, 2)).shape == (2, 4)
