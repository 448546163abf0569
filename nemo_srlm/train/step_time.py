"""What a training step takes: rows and padding from the documents' lengths, computation, pipeline bubble, communication.

Pure functions. A roofline per row and pipeline stage, and volumes over bandwidths; what is assumed is a constant here:
docs/decisions.md says why. Not counted: transfers between pipeline stages, and the start of kernels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection
from nemo_srlm.train.batches import BatchLayout, batch_layout, row_length, step_rows
from nemo_srlm.train.estimate import (
    WIDTH,
    Gpu,
    Work,
    gradient_width,
    layer_matrices,
    micro_batches,
    stage_parameters,
    training_flops,
)
from nemo_srlm.train.layout import data_parallel_size
from nemo_srlm.train.lengths import Units

EFFICIENCY = 0.5  # of the peak, that matrix products and attention of a row reach
REACHED = 0.75  # of a link's or a memory's bandwidth
STATE_TRAFFIC = 30  # bytes that Adam reads and writes per parameter: gradient, two moments, float32 and 16-bit weight
WEIGHT_TRAFFIC = 5  # times that a row reads or writes its weights or their gradients: forward, two products backward
EXPOSED = 0.3  # of tensor-parallel communication that is overlapped with matrix products in pieces
# (parameters up to, published step time over this estimate's): Llama 2 7B and 13B; Llama 2 and 3 70B (docs/decisions.md)
PUBLISHED = ((30e9, "1.36"), (math.inf, "0.96 to 1.09"))
NODE = 8  # GPUs that NVLink connects


@dataclass(frozen=True)
class StepCost:
    """Means over steps, of the whole data-parallel group."""

    tokens: float  # of documents
    positions: float  # computed: tokens and padding
    rows: float  # micro-batches of a replica
    seconds: float
    bubble: float  # share of the replicas' computing time in which a pipeline stage is idle
    waiting: float  # share of the step's computing time in which a replica waits for the slowest
    exposed: float  # share of the step that is communication between replicas and the optimizer

    @property
    def useful(self) -> float:
        return self.tokens / self.positions


def step_cost(
    model: ModelSection, parallel: ParallelSection, precision: PrecisionSection, work: Work, gpu: Gpu, units: Units,
    efficiency: float = EFFICIENCY,
) -> StepCost:  # fmt: skip
    """The mean step over consecutive global batches of `units`."""
    layout, replicas = batch_layout(work.section, parallel, precision), data_parallel_size(parallel)
    size = work.section.global_batch
    batches = [units[i : i + size] for i in range(0, len(units) - size + 1, size)]
    assert batches, f"{len(units)} units are less than a global batch of {size}"
    tokens = positions = rows = seconds = idle = busy = slowest = exposed = 0.0
    for batch in batches:
        times = []
        for share in step_rows(batch, replicas, micro_batches(work.section, parallel), layout):
            shapes = row_shapes([[batch[i] for i in row] for row in share], layout)
            each = [row_seconds(model, parallel, precision, gpu, efficiency, *shape) for shape in shapes]
            wait = (parallel.pipeline - 1) / parallel.virtual_pipeline * max(each)
            times.append((sum(each) + wait, wait, max(each)))
            positions += sum(length for length, _ in shapes)
            rows += len(share) / replicas
        tokens += sum(sum(unit) for unit in batch)
        longest = max(time for time, _, _ in times)
        rest = exposed_seconds(model, parallel, precision, gpu, max(row for _, _, row in times))
        idle, busy = idle + sum(wait for _, wait, _ in times), busy + sum(time for time, _, _ in times)
        slowest, exposed, seconds = slowest + longest, exposed + rest, seconds + longest + rest
    n = len(batches)
    return StepCost(
        tokens / n,
        positions / n,
        rows / n,
        seconds / n,
        idle / busy,
        1.0 - busy / (replicas * slowest),
        exposed / seconds,
    )


def row_shapes(rows: Sequence[Sequence[tuple[int, ...]]], layout: BatchLayout) -> list[tuple[int, int]]:
    """(positions, sum of squared lengths of what attention keeps apart) of every micro-batch of a replica."""
    lengths = [row_length(row, layout) for row in rows]
    if layout.uniform:
        lengths = [max(lengths)] * len(rows)
    if layout.packed:
        return [(n, sum(d * d for unit in row for d in unit)) for n, row in zip(lengths, rows, strict=True)]
    counts = [sum(len(unit) for unit in row) for row in rows]
    return [(count * n, count * n * n) for count, n in zip(counts, lengths, strict=True)]


def row_seconds(
    model: ModelSection, parallel: ParallelSection, precision: PrecisionSection, gpu: Gpu, efficiency: float,
    positions: int, squares: int,
) -> float:  # fmt: skip
    """Forward and backward of one micro-batch on one pipeline stage.

    The slower of its FLOPs and the traffic of its weights, and what tensor parallelism exchanges.
    """
    p, wide = parallel, WIDTH[precision.dtype]
    flops = training_flops(model, positions, squares) * (4 / 3 if precision.recompute == "full" else 1)
    compute = flops / (p.tensor * p.pipeline * p.context) / (gpu.peak(precision) * 1e12 * efficiency)
    weights = stage_parameters(model, p, 0) * wide
    memory = WEIGHT_TRAFFIC * weights / (gpu.bandwidth * 1e9 * REACHED)
    return max(compute, memory) + tensor_seconds(model, p, precision, gpu, positions)


def tensor_seconds(
    model: ModelSection, parallel: ParallelSection, precision: PrecisionSection, gpu: Gpu, positions: int
) -> float:
    """Exposed communication of tensor parallelism for one micro-batch on one pipeline stage.

    A layer gathers and scatters its input twice in each direction, and gathers it twice more for the weights' gradients
    under sequence parallelism (Korthikanti et al. 2022, section 4.2.2).
    """
    p = parallel
    if p.tensor == 1:
        return 0.0
    passes = 10 if p.sequence else 8
    volume = positions / p.context * model.hidden_size * WIDTH[precision.dtype] * (p.tensor - 1) / p.tensor
    seconds = model.num_layers / p.pipeline * passes * volume / (gpu.nvlink * 1e9 * REACHED)
    return seconds * (EXPOSED if p.tp_comm_overlap else 1.0)


def exposed_seconds(
    model: ModelSection, parallel: ParallelSection, precision: PrecisionSection, gpu: Gpu, row: float
) -> float:
    """The optimizer, and what remains of the exchange of gradients and weights behind one row of `row` seconds.

    Gradients are reduced during the last row's backward pass, weights gathered during the first row's forward pass.
    """
    p = parallel
    group = data_parallel_size(p) * p.context
    count = max(stage_parameters(model, p, stage) for stage in {0, p.pipeline - 1})
    held = count / group if p.distributed_optimizer else count
    optimizer = held * STATE_TRAFFIC / (gpu.bandwidth * 1e9 * REACHED)
    link = gpu.nvlink if p.tensor * group <= NODE else gpu.network
    seconds_per_byte = (group - 1) / group / (link * 1e9 * REACHED)
    reduce = count * gradient_width(precision) * seconds_per_byte * (1 if p.distributed_optimizer else 2)
    gathered = float(count * WIDTH[precision.dtype])
    if precision.fp8_param_gather:  # one byte in place of two
        layers = model.num_layers / p.pipeline - precision.fp8_bf16_layers
        gathered -= layers * layer_matrices(model) / p.tensor
    gather = gathered * seconds_per_byte if p.distributed_optimizer else 0.0
    return optimizer + max(0.0, reduce - row * 2 / 3) + max(0.0, gather - row / 3)
