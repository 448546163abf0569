"""The limit of a training step on a CPU: the time that torch takes for the matrix products of its rows, and nothing else.

Every product of every layer at its own shape, in the dtype and with the threads of the caller: forward, and for training
both products of the backward pass. Attention's products are computed in full and counted half, as causal attention needs.
Shapes: T positions of a row, O outputs and I inputs of a matrix, n positions of a document, D head size.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from nemo_srlm.config.training import ModelSection
from nemo_srlm.train.batches import Batch, eval_batches, step_batches


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock, and of processor time of this process."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Row:
    """What one forward pass reads: `positions` in all, and (count, length) of documents that one kernel call attends to."""

    positions: int
    targets: int  # of them, those that the output layer reads
    runs: Sequence[tuple[int, int]]


def beside_trainer(trainer: Any, task: Any, steps: int) -> dict[str, Spent]:
    """What this rank's products take: `step_products` of all steps but the first; `forward`, a pass over up to four global
    batches without gradient, as the reference pass is one, and its `forward_products`.
    """
    from nemo_srlm.train.layout import data_parallel_size
    from nemo_srlm.train.megatron import ranks
    from nemo_srlm.train.megatron.evaluation import evaluate
    from nemo_srlm.train.megatron.tasks import sft_task

    section, layout = trainer.job.train, trainer.layout
    size, replicas, replica = section.global_batch, data_parallel_size(trainer.job.parallel), ranks.replica()
    micro = size // replicas // section.micro_batch
    batches = [
        b for i in range(1, steps) for b in step_batches(task.unit_at, i, size, replicas, micro, replica, layout)
    ]
    documents = [d for i in range(min(task.num_units, 4 * size)) for d in task.unit_at(i)]
    held_out = eval_batches([(d,) for d in documents], section.micro_batch, replicas, replica, layout)
    return {
        "step_products": limit(trainer.job.model, rows_of(batches), backward=True),
        "forward": measured(lambda: evaluate(trainer, sft_task(documents, 0, shuffled=False))),
        "forward_products": limit(trainer.job.model, rows_of(held_out), backward=False),
    }


def rows_of(batches: Sequence[Batch]) -> list[Row]:
    """The packed rows of a trainer's micro-batches."""
    from nemo_srlm.train.megatron import target_logits

    found = []
    for batch in batches:
        assert batch.bounds_N1 is not None
        lengths = (batch.bounds_N1[1:] - batch.bounds_N1[:-1]).tolist()
        logits = target_logits.targets(batch.weights_BS)
        targets = batch.tokens_BS.size if logits is None else len(logits)
        runs = [(len(list(group)), length) for length, group in groupby(lengths)]
        found.append(Row(batch.tokens_BS.shape[1], targets, runs))
    return found


def matrices(model: ModelSection, row: Row) -> Iterator[tuple[int, int, int, int]]:
    """(positions, outputs, inputs, how many) of the matrices: the output layer reads the targets alone."""
    h, f = model.hidden_size, model.ffn_hidden_size
    yield row.positions, model.query_size + 2 * model.kv_size, h, model.num_layers
    yield row.positions, h, model.query_size, model.num_layers
    yield row.positions, 2 * f, h, model.num_layers
    yield row.positions, h, f, model.num_layers
    yield row.targets, model.vocab_size, h, 1


def measured(work: Callable[[], object]) -> Spent:
    """What a call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


def limit(model: ModelSection, rows: Sequence[Row], backward: bool) -> Spent:
    """The products of these rows."""
    wall = cpu = 0.0
    for row in rows:
        for *size, count in matrices(model, row):
            spent = measured(lambda size=size, n=count: _linear(*size, n, backward))  # type: ignore[misc]
            wall, cpu = wall + spent.wall, cpu + spent.cpu
        for count, length in row.runs:
            heads = count * model.num_attention_heads
            spent = measured(
                lambda size=(heads, length): _attention(*size, model.head_size, model.num_layers, backward)  # type: ignore[misc]
            )
            wall, cpu = wall + spent.wall / 2, cpu + spent.cpu / 2
    return Spent(wall, cpu)


def _linear(positions: int, outputs: int, inputs: int, times: int, backward: bool) -> None:
    x_TI, w_OI, y_TO = torch.empty(positions, inputs), torch.empty(outputs, inputs), torch.empty(positions, outputs)
    products: list[tuple[Tensor, Tensor, Tensor]] = [(x_TI, w_OI.t(), y_TO)]
    if backward:
        products += [(y_TO, w_OI, torch.empty_like(x_TI)), (y_TO.t(), x_TI, torch.empty_like(w_OI))]
    for _ in range(times):
        for a, b, out in products:
            torch.mm(a, b, out=out)


def _attention(heads: int, length: int, size: int, times: int, backward: bool) -> None:
    """Scores and output; backward the gradients of values, probabilities, queries and keys."""
    x, scores, y = (
        torch.empty(heads, length, size),
        torch.empty(heads, length, length),
        torch.empty(heads, length, size),
    )
    for _ in range(times):
        torch.bmm(x, x.transpose(1, 2), out=scores)
        torch.bmm(scores, x, out=y)
        if backward:
            torch.bmm(x, x.transpose(1, 2), out=scores)
            for _ in range(3):
                torch.bmm(scores, x, out=y)
