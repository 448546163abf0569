"""Logits of the positions that have a loss, and of no others.

Prompts have none: they are most of what a judge's example or a preference pair with a long prompt reads, and in a small model
with a large vocabulary the output layer is a fifth of the products. Where every position has one, nothing changes.
Shapes: B rows, S positions, H hidden size, K the positions whose logits are computed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from megatron.core.utils import unwrap_model
from torch import Tensor

from nemo_srlm.data.chat import Weights
from nemo_srlm.train.packing import round_up

# K is a multiple of it, as matrix units like; and oneDNN makes and keeps a kernel for each number of rows of a bf16 product.
MULTIPLE = 64


def targets(weights_BS: Weights) -> npt.NDArray[np.int64] | None:
    """[K] the positions with a weight, numbered through the rows, and others that fill K up; None where these are all.

    Never empty: a context-parallel rank may hold nothing but a prompt, and its output layer has to take part.
    """
    found, others = np.flatnonzero(weights_BS), np.flatnonzero(weights_BS == 0)
    missing = round_up(max(1, len(found)), MULTIPLE) - len(found)
    return None if missing >= len(others) else np.concatenate([found, others[:missing]])


def selects(chunk: torch.nn.Module) -> bool:
    """Whether this chunk has the output layer, and all positions of it: sequence parallelism gathers them in the layer."""
    model = unwrap_model(chunk)
    return bool(model.post_process and not model.config.sequence_parallel)


@contextmanager
def only_at(chunk: torch.nn.Module, targets_K: Tensor) -> Iterator[None]:
    """In this context the output layer of the chunk reads [K, 1, H] in place of [S, B, H]."""

    def select(_: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden_SBH, *others = args
        return hidden_SBH.transpose(0, 1).flatten(0, 1)[targets_K].unsqueeze(1), *others

    handle = unwrap_model(chunk).output_layer.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def spread(values_K: Tensor, targets_K: Tensor, like_BS: Tensor) -> Tensor:
    """[B, S] with the values at their positions and 0 elsewhere. Differentiable."""
    flat = values_K.new_zeros(like_BS.numel()).index_copy(0, targets_K, values_K.flatten())
    return flat.view_as(like_BS)
