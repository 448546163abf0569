"""Forward passes without gradient, dropout off: metrics of held-out units, and whatever else a loss function collects."""

from collections.abc import Sequence
from typing import Any

from nemo_srlm.train.batches import Unit, eval_batches, padding_batch
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
