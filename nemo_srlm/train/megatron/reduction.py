"""Metrics of a task over micro-batches and ranks: each is a sum and a count, added up everywhere and then divided."""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_srlm.train.megatron import ranks
from nemo_srlm.train.megatron.step import LocalBatch, MicroBatchLoss
from nemo_srlm.train.megatron.tasks import Task


def micro_batch_loss(task: Task) -> MicroBatchLoss:
    """The task's loss as Megatron's schedules take it: an integer count, and the metrics as one float64 vector."""

    def loss(nll_BS: Tensor, batch: LocalBatch) -> tuple[Tensor, Tensor, Tensor]:
        found = task.loss(nll_BS, batch)
        count = (found.count * task.count_scale).round().to(torch.int)
        values = torch.stack([torch.stack(found.metrics[name]).double() for name in task.metrics]).flatten()
        return found.total * task.count_scale, count, values

    return loss


def reduce_metrics(
    task: Task, collected: Sequence[Tensor], extra: Sequence[float], device: torch.device
) -> tuple[dict[str, float], list[float]]:
    """(metric values by name, sums of the `extra` numbers), over micro-batches and all ranks, by one all-reduce.

    `collected` are the vectors of `micro_batch_loss`.
    """
    size = 2 * len(task.metrics)
    vector = torch.zeros(size + len(extra), dtype=torch.float64)
    if collected and ranks.holds_metrics():
        vector[:size] = torch.stack(list(collected)).sum(0).cpu()
    vector[size:] = torch.tensor(list(extra), dtype=torch.float64)
    vector = vector.to(device)
    dist.all_reduce(vector)
    numbers: list[float] = vector.tolist()
    values = {
        name: numbers[2 * i] / numbers[2 * i + 1] if numbers[2 * i + 1] else math.nan
        for i, name in enumerate(task.metrics)
    }
    return values, numbers[size:]
