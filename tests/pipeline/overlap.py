"""Overlap of communication and computation over gloo: the tests' stand-in for NCCL's coalesced asynchronous collectives."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch.distributed as dist
from megatron.core.distributed import param_and_grad_buffer

from nemo_srlm.train.megatron import optim


class _Group:
    """The asynchronous collectives of one bucket group, as Megatron keeps and waits for them."""

    def __init__(self) -> None:
        self.works: list[Any] = []

    def wait(self) -> None:
        for work in self.works:
            work.wait()


@contextmanager
def forced_overlap() -> Iterator[None]:
    """Within it trainings overlap gradient reduction and parameter gathering, as they do on a GPU."""
    current = _Group()

    @contextmanager
    def coalescing(group: Any = None, device: Any = None, async_ops: bool = False) -> Iterator[_Group]:
        nonlocal current
        current = _Group()
        yield current

    def collected(collective: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(collective)
        def start(*args: Any, **kwargs: Any) -> Any:
            work = collective(*args, **kwargs)
            if work is not None:
                current.works.append(work)
            return work

        return start

    with (
        mock.patch.object(optim, "can_overlap", return_value=True),
        mock.patch.object(param_and_grad_buffer, "_coalescing_manager", coalescing),
        mock.patch.object(param_and_grad_buffer, "dist_all_gather_func", collected(dist.all_gather_into_tensor)),
        mock.patch.object(param_and_grad_buffer, "dist_reduce_scatter_func", collected(dist.reduce_scatter_tensor)),
    ):
        yield
