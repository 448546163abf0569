"""Which parallel layouts are possible, which fit a GPU's memory, and which of them trains a run in the shortest time."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection
from nemo_srlm.errors import ConfigError
from nemo_srlm.train.estimate import GIB, Gpu, Work, peak_memory
from nemo_srlm.train.layout import check_batches, check_layout, data_parallel_size
from nemo_srlm.train.lengths import Units
from nemo_srlm.train.step_time import EFFICIENCY, NODE, StepCost, step_cost

MIN_CHUNK = 4  # fewest layers per virtual pipeline chunk in the layouts that are proposed
RECOMPUTE = ("none", "full")  # cheapest in time first; fused attention keeps nothing that "selective" would save
BUDGETS = (0, 2048, 4096, 8192)  # of a row, in tokens; 0 = one example a row


@dataclass(frozen=True)
class Fit:
    """A layout that fits, and the bytes on its fullest GPU over all training stages."""

    parallel: ParallelSection
    precision: PrecisionSection
    memory: float


@dataclass(frozen=True)
class Candidate:
    """A layout that fits, with a row budget: what its steps cost by training stage, and GPU-hours of the run's training."""

    fit: Fit
    budget: int
    costs: Mapping[str, StepCost]
    gpu_hours: float


def layout_words(parallel: ParallelSection) -> str:
    p = parallel
    words = [f"TP{p.tensor}", f"PP{p.pipeline}"]
    words += [f"VPP{p.virtual_pipeline}"] if p.virtual_pipeline > 1 else []
    words += [f"CP{p.context}"] if p.context > 1 else []
    return " ".join([*words, f"DP{data_parallel_size(p)}", *(["SP"] if p.sequence else [])])


def possible(
    model: ModelSection, todo: Sequence[Work], gpus: int, contexts: Sequence[int] = (1, 2, 4, 8)
) -> Iterator[ParallelSection]:
    """Every valid layout of exactly `gpus` GPUs; tensor parallelism stays within a node."""
    sizes = [n for n in range(1, gpus + 1) if gpus % n == 0]
    pipelines = [n for n in sizes if model.num_layers % n == 0]
    for tensor, context, pipeline in itertools.product(sizes, contexts, pipelines):
        if tensor > NODE or gpus % (tensor * context * pipeline):
            continue
        for chunks in range(1, model.num_layers // pipeline + 1):
            # chunks of few layers spend most of their time on communication
            if chunks > 1 and model.num_layers % (pipeline * chunks * MIN_CHUNK):
                continue
            found = ParallelSection(
                nodes=max(1, gpus // NODE), processes=min(gpus, NODE), tensor=tensor, pipeline=pipeline,
                virtual_pipeline=chunks, context=context, sequence=tensor > 1,
            )  # fmt: skip
            try:
                check_layout(model, found)
                for work in todo:
                    check_batches(work.name, work.section, found)
            except ConfigError:
                continue
            yield found


def fit_of(
    model: ModelSection, parallel: ParallelSection, precision: PrecisionSection, todo: Sequence[Work], memory_gib: float
) -> Fit | None:
    """The layout with the least recomputation with which every training stage fits; None if none does."""
    for recompute in RECOMPUTE:
        asked = dataclasses.replace(precision, recompute=recompute)
        memory = max(peak_memory(model, parallel, asked, work)[1].total for work in todo)
        if memory <= memory_gib * GIB:
            return Fit(parallel, asked, memory)
    return None


def smallest_fits(
    model: ModelSection, precision: PrecisionSection, todo: Sequence[Work], memory_gib: float, max_gpus: int = 512
) -> list[Fit]:
    """The best layout for each of the three smallest GPU counts (powers of two) in which every training stage fits.

    Best: least recomputation, then least context, pipeline and tensor parallelism, then the shortest bubble.
    """
    fits: list[Fit] = []
    gpus = 1
    while gpus <= max_gpus and len(fits) < 3:
        found = [fit_of(model, parallel, precision, todo, memory_gib) for parallel in possible(model, todo, gpus)]
        if fitting := [fit for fit in found if fit]:
            fits.append(min(fitting, key=_simplest))
        gpus *= 2
    return fits


def _simplest(fit: Fit) -> tuple[int, ...]:
    p = fit.parallel
    return RECOMPUTE.index(fit.precision.recompute), p.context, p.pipeline * p.tensor, p.tensor, -p.virtual_pipeline


def with_budget(work: Work, budget: int) -> Work:
    """The training stage with rows filled to `budget` tokens; 0: with one example a row."""
    section = dataclasses.replace(work.section, max_tokens_per_row=budget, packing=True, micro_batch=1)
    return dataclasses.replace(work, section=section)


def ranking(
    model: ModelSection, precision: PrecisionSection, todo: Sequence[Work], steps: Mapping[str, int],
    units: Mapping[str, Units], gpu: Gpu, gpus: int, efficiency: float = EFFICIENCY,
) -> list[Candidate]:  # fmt: skip
    """Every layout of `gpus` GPUs that fits, each with its best row budget, the fewest GPU-hours first.

    `steps` and `units` are the training's steps and examples by stage. Without context parallelism: it parts documents,
    which is for those that do not fit whole, and what it costs short ones in a pack is not modelled.
    """
    best: dict[str, Candidate] = {}
    for budget in BUDGETS:
        asked = [with_budget(work, budget) for work in todo]
        for parallel in possible(model, asked, gpus, contexts=(1,)):
            fit = fit_of(model, parallel, precision, asked, gpu.memory)
            if fit is None:
                continue
            costs = {
                work.name: step_cost(model, parallel, fit.precision, work, gpu, units[work.name], efficiency)
                for work in asked
            }
            hours = sum(steps[name] * cost.seconds for name, cost in costs.items()) * gpus / 3600
            known = best.get(layout_words(parallel))
            if known is None or hours < known.gpu_hours:
                best[layout_words(parallel)] = Candidate(fit, budget, costs, hours)
    return sorted(best.values(), key=lambda candidate: candidate.gpu_hours)
