"""Forward passes without gradient, dropout off: metrics of held-out units, and whatever else a loss function collects."""

from collections.abc import Callable, Sequence
from typing import Any

from nemo_srlm.train.batches import Batch, Unit, eval_batches, padding_batch, step_batches
from nemo_srlm.train.layout import data_parallel_size
from nemo_srlm.train.megatron import ranks, step
from nemo_srlm.train.megatron.job import Trainer
from nemo_srlm.train.megatron.reduction import micro_batch_loss, reduce_metrics
from nemo_srlm.train.megatron.step import MicroBatchLoss
from nemo_srlm.train.megatron.tasks import Task


def forward_pass(trainer: Trainer, units: Sequence[Unit], loss: MicroBatchLoss) -> list[Any]:
    """One pass over every unit; what `loss` collected on this rank, an entry per micro-batch (last stage only)."""
    job = trainer.job
    replicas = data_parallel_size(job.parallel)
    batches = eval_batches(units, job.train.micro_batch, replicas, ranks.replica(), trainer.layout)
    if batches and job.parallel.virtual_pipeline > 1:  # the interleaved schedule wants a multiple of the stages
        batches += [padding_batch(batches[-1])] * (-len(batches) % job.parallel.pipeline)
    return _without_dropout(trainer, batches, loss)


def step_pass(trainer: Trainer, unit_at: Callable[[int], Unit], number: int, loss: MicroBatchLoss) -> list[Any]:
    """One pass over the micro-batches that training step `number` has: the same rows, so the same rounding."""
    return _without_dropout(trainer, training_batches(trainer, unit_at, number), loss)


def training_batches(trainer: Trainer, unit_at: Callable[[int], Unit], number: int) -> list[Batch]:
    """This replica's micro-batches of step `number` (from 0)."""
    job, section = trainer.job, trainer.job.train
    replicas = data_parallel_size(job.parallel)
    num_micro = section.global_batch // (replicas * section.micro_batch)
    return step_batches(
        unit_at, number, section.global_batch, replicas, num_micro, ranks.replica(), trainer.layout
    )  # fmt: skip


def _without_dropout(trainer: Trainer, batches: Sequence[Batch], loss: MicroBatchLoss) -> list[Any]:
    for chunk in trainer.chunks:
        chunk.eval()
    collected = step.run_schedule(trainer.chunks, batches, loss, trainer.device, forward_only=True)
    for chunk in trainer.chunks:
        chunk.train()
    return collected


def evaluate(trainer: Trainer, task: Task) -> dict[str, float]:
    """Metric values over the units of `task` at positions 0 .. num_units - 1."""
    units = [task.unit_at(i) for i in range(task.num_units)]
    values, _ = reduce_metrics(task, forward_pass(trainer, units, micro_batch_loss(task)), (), trainer.device)
    return values
