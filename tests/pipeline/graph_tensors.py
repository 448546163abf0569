"""A stand-in for Transformer Engine's CUDA graphs on the CPU: what was recorded is computed again, by the recorded module.

Megatron's helper does the rest: which layers, which inputs, the hooks before a replay, the path of a layer that has a graph.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from megatron.core.transformer import cuda_graphs as megatrons
from megatron.core.transformer import transformer_layer
from torch import Tensor

from nemo_srlm.train.megatron import cuda_graphs

ENGINE = ("transformer_engine", "transformer_engine.pytorch")


@contextmanager
def replayed_on_the_cpu(replays: list[tuple[int, ...]], warmup: int) -> Iterator[None]:
    """Within it trainings with `cuda_graphs` record after `warmup` steps; the shape of every replay goes into `replays`."""

    def graph_of(layer: Any, shape: tuple[int, ...]) -> Callable[..., Any]:
        def replay(hidden: Tensor, is_first_microbatch: bool) -> Any:
            assert tuple(hidden.shape) == shape, "a recording has one shape"
            replays.append(shape)
            return layer._te_cuda_graph_capture(hidden)

        return replay

    def make(layers: Sequence[Any], samples: Sequence[tuple[Tensor, ...]], **_: Any) -> list[Callable[..., Any]]:
        for layer, (hidden,) in zip(layers, samples, strict=True):
            (out,) = layer._te_cuda_graph_capture(hidden)
            torch.autograd.grad(
                out.sum(), [hidden, *layer.mlp.parameters()]
            )  # as recording does: no hook of a parameter runs
        return [graph_of(layer, tuple(hidden.shape)) for layer, (hidden,) in zip(layers, samples, strict=True)]

    with (
        mock.patch.object(cuda_graphs, "WARMUP", warmup),
        mock.patch.object(megatrons, "HAVE_TE_GRAPHS", True),
        mock.patch.object(megatrons, "make_graphed_callables", make, create=True),
        mock.patch.object(megatrons, "is_te_min_version", return_value=True),
        mock.patch.object(transformer_layer, "is_te_min_version", return_value=True),
        mock.patch.dict(sys.modules, {name: ModuleType(name) for name in ENGINE}),  # imported by a layer, and not used
        mock.patch("nemo_srlm.train.megatron.setup.check_kernels"),
    ):
        yield
