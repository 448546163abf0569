"""The order of training examples and their layout in micro-batches: shuffling, balance over ranks, packing, padding.

Knows numpy only. A document is one token sequence with loss weights; a unit is what must stay in one micro-batch: one
document, or a preference pair and, with replay, its replayed example. What stands in a pack are parts: whole documents,
or what prefix.py makes of a pair.
Shapes: B rows, S positions of a row, N documents of a micro-batch.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nemo_srlm.config.fp8 import fp8_multiple
from nemo_srlm.config.training import ParallelSection, PrecisionSection, TrainSection
from nemo_srlm.data.chat import Document, Weights
from nemo_srlm.train import packing, prefix
from nemo_srlm.train.packing import round_up
from nemo_srlm.train.prefix import Part

Unit = tuple[Document, ...]


def drop_reason(unit: Unit, max_length: int) -> str:
    """ "" for a unit that can be trained on, else the reason to drop it, under which it is counted."""
    if any(len(document.ids) > max_length for document in unit):
        return "too_long"
    if any(not document.weights.any() for document in unit):
        return "no_target"
    return ""


# --- order ---------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def _permutation(num: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(num)


def index_at(position: int, num: int, seed: int) -> int:
    """Index of the unit at `position` of the endless stream of shuffled epochs.

    A function of position and seed only, so that training resumes at any step without saved state.
    """
    return int(_permutation(num, seed, position // num)[position % num])


def total_steps(section: TrainSection, num_units: int) -> int:
    """max_steps if set, else the epochs in whole global batches; the last batch is filled up from the next epoch."""
    if section.max_steps > 0:
        return section.max_steps
    return max(1, math.ceil(section.epochs * num_units / section.global_batch))


def balance(sizes: Sequence[int], bins: int, sort_only: bool = False) -> list[list[int]]:
    """Splits indices 0..len(sizes)-1 into `bins` lists of equal count and near-equal total size. Deterministic.

    The largest first, each into the lightest bin that is not full. `sort_only` puts units of similar length together
    instead, for rows that are padded to the longest one. The gradient does not depend on the split: the loss divides by
    counts of the global batch.
    """
    room = len(sizes) // bins
    assert room * bins == len(sizes), (len(sizes), bins)
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    if sort_only:
        return [order[i * room : (i + 1) * room] for i in range(bins)]
    filled: list[list[int]] = [[] for _ in range(bins)]
    load = [0] * bins
    for i in order:
        target = min((b for b in range(bins) if len(filled[b]) < room), key=lambda b: (load[b], b))
        filled[target].append(i)
        load[target] += sizes[i]
    return filled


def context_positions(length: int, size: int, rank: int) -> npt.NDArray[np.int64]:
    """Positions of one document that context-parallel `rank` holds: chunks rank and 2*size-1-rank of 2*size.

    An early and a late chunk are paired, so that every rank has the same work under causal attention. This is the order
    of Megatron and Transformer Engine.
    """
    if size == 1:
        return np.arange(length, dtype=np.int64)
    chunk = length // (2 * size)
    assert chunk * 2 * size == length, (length, size)
    late = 2 * size - 1 - rank
    return np.concatenate([np.arange(c * chunk, (c + 1) * chunk, dtype=np.int64) for c in (rank, late)])


# --- micro-batches -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """One micro-batch. Documents are numbered unit by unit; padding has document number N and weight 0.

    With `bounds_N1` the only row (B = 1) is a pack of parts; without it every row is one document, padded at its end.
    A shared prefix counts as the first document's that reads it.
    """

    tokens_BS: npt.NDArray[np.int64]
    labels_BS: npt.NDArray[np.int64]  # the next token of each position
    weights_BS: Weights  # loss weight of the label
    segments_BS: npt.NDArray[np.int64]  # number of the document
    positions_S: npt.NDArray[np.int64]  # start at 0 in every document
    bounds_N1: npt.NDArray[np.int64] | None  # cumulative lengths of parts (padding included), in row order
    num_documents: int
    positions: tuple[int, ...]  # of the units in the stream of examples
    prefixes_N: npt.NDArray[np.int64] | None = None  # the part that each part follows, -1 for none; None: no part does

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads, without padding."""
        return int((self.segments_BS < self.num_documents).sum())

    @property
    def num_targets(self) -> int:
        """Positions that have a loss."""
        return int(np.count_nonzero(self.weights_BS))

    @property
    def squared_lengths(self) -> int:
        """Sum over documents of their squared length: causal attention's FLOPs are proportional to it."""
        lengths = np.bincount(self.segments_BS.reshape(-1), minlength=self.num_documents)[: self.num_documents]
        squares = int((lengths**2).sum())
        if self.bounds_N1 is None or self.prefixes_N is None:
            return squares
        document, size = self.segments_BS[0, self.bounds_N1[:-1]], np.diff(self.bounds_N1)
        of_others = [(i, p) for i, p in enumerate(self.prefixes_N) if p >= 0 and document[i] != document[p]]
        return squares + 2 * sum(int(lengths[document[i]] * size[p]) for i, p in of_others)


@dataclass(frozen=True)
class BatchLayout:
    """How micro-batches are laid out; follows from the parallel layout and the precision."""

    packed: bool  # whole documents one after another in one row; else one padded row per document
    align: int = 1  # a document's length in a pack is padded to a multiple of this (2 x context-parallel size)
    multiple: int = 1  # a row's length is padded to a multiple of this (sequence parallelism, FP8 blocks, row_multiple)
    uniform: bool = False  # all micro-batches of a step have one length: pipeline stages exchange tensors of one shape
    budget: int = 0  # more than 0: packs are filled to this many positions, whatever the number of examples in them
    rounds: int = 1  # with a budget, the micro-batches of a replica are a multiple of this (interleaved schedule)
    full: bool = False  # every row is padded to the budget: buffers of one size
    shared: bool = False  # packed: the first two documents of a unit share their beginning (prefix.py)


def batch_layout(section: TrainSection, parallel: ParallelSection, precision: PrecisionSection) -> BatchLayout:
    """The layout of micro-batches that a training section, the parallel layout and the precision need."""
    p = parallel
    needed = (p.tensor if p.sequence else 1) * fp8_multiple(p, precision) * p.context
    align = 2 * p.context if p.context > 1 else 1  # of what fills a row up, too, which is cut like a document
    return BatchLayout(
        packed=section.packing or p.context > 1, align=align,
        multiple=math.lcm(needed, align, section.row_multiple), uniform=p.pipeline > 1, budget=section.max_tokens_per_row,
        rounds=p.pipeline if p.virtual_pipeline > 1 else 1, full=p.tp_comm_overlap or precision.cuda_graphs != "none",
    )  # fmt: skip


def unit_length(lengths: Sequence[int], layout: BatchLayout) -> int:
    """Positions of a unit in a pack; `lengths` are those of its parts."""
    return sum(round_up(n, layout.align) for n in lengths)


def row_length(lengths: Sequence[Sequence[int]], layout: BatchLayout) -> int:
    """Positions of a row that holds units with parts of these lengths."""
    if layout.packed:
        filled = sum(unit_length(unit, layout) for unit in lengths)
        return round_up(max(filled, layout.budget) if layout.full else filled, layout.multiple)
    return round_up(max(max(unit) for unit in lengths), layout.multiple)


def num_inputs(unit: Unit) -> list[int]:
    return [document.num_inputs for document in unit]


def unit_parts(unit: Unit, first: int, layout: BatchLayout) -> list[Part]:
    """The parts of a unit, with documents numbered from `first`; `prefix` counts from the unit's first part."""
    shared = prefix.shared_inputs(unit[0], unit[1], layout.align) if layout.shared and len(unit) > 1 else 0
    return prefix.cut(unit, first, shared)


def part_lengths(unit: Unit, layout: BatchLayout) -> list[int]:
    return [part.length for part in unit_parts(unit, 0, layout)]


def collate(
    units: Sequence[Unit], positions: Sequence[int], layout: BatchLayout, length: int = 0, num_rows: int = 0
) -> Batch:
    """A micro-batch of whole units, its rows at least `length` long and, where not packed, at least `num_rows` of them.

    `positions` are the units' places in the stream.
    """
    documents = [document for unit in units for document in unit]
    length = max(length, row_length([part_lengths(unit, layout) for unit in units], layout))
    num, firsts = len(documents), itertools.accumulate(map(len, units), initial=0)
    of_units = [unit_parts(unit, first, layout) for unit, first in zip(units, firsts, strict=False)]
    parts = prefix.in_row(of_units) if layout.packed else [part for unit in of_units for part in unit]
    rows = 1 if layout.packed else max(num, num_rows)
    tokens, labels = np.zeros((rows, length), np.int64), np.zeros((rows, length), np.int64)
    weights = np.zeros((rows, length), np.float32)
    segments = np.full((rows, length), num, np.int64)
    row_positions = np.arange(length, dtype=np.int64)
    bounds, place = [0], 0
    for row, part in enumerate(parts):
        document, n = documents[part.document], part.length
        at = (0, slice(place, place + n)) if layout.packed else (row, slice(0, n))
        inputs, targets = slice(part.start, part.end), slice(part.start + 1, part.end + 1)
        tokens[at], labels[at], weights[at] = document.ids[inputs], document.ids[targets], document.weights[targets]
        segments[at] = part.document
        if layout.packed:
            padded = round_up(n, layout.align)
            row_positions[place : place + padded] = np.arange(part.start, part.start + padded)
            place += padded
            bounds.append(place)
    prefixes = [part.prefix for part in parts]
    if layout.packed and place < length:
        row_positions[place:] = np.arange(length - place)
        bounds.append(length)
        prefixes.append(-1)
    return Batch(
        tokens, labels, weights, segments, row_positions, np.array(bounds, np.int64) if layout.packed else None,
        num, tuple(positions), np.array(prefixes, np.int64) if max(prefixes) >= 0 else None,
    )  # fmt: skip


def step_rows(
    lengths: Sequence[Sequence[int]], replicas: int, micro_batches: int, layout: BatchLayout
) -> list[packing.Rows]:
    """The micro-batches of every replica, as indices of the units of a step; `lengths`: of each unit's parts.

    Without a budget a replica has `micro_batches` of them; with one their number follows from the lengths.
    """
    if layout.budget:
        sizes = [unit_length(unit, layout) for unit in lengths]
        rows = packing.fill_rows(sizes, layout.budget, replicas * layout.rounds)
        shares = balance([sum(sizes[i] for i in row) for row in rows], replicas)
        return [[rows[r] for r in share] for share in shares]
    rows = balance([sum(unit) for unit in lengths], replicas * micro_batches, sort_only=not layout.packed)
    return [rows[replica::replicas] for replica in range(replicas)]


def step_batches(
    unit_at: Callable[[int], Unit],
    step: int,
    global_batch: int,
    replicas: int,
    micro_batches: int,
    replica: int,
    layout: BatchLayout,
) -> list[Batch]:
    """The micro-batches of one replica in one step: its share of units step*G .. (step+1)*G-1 of the stream, G per step."""
    first = step * global_batch
    units = [unit_at(first + i) for i in range(global_batch)]
    lengths = [part_lengths(unit, layout) for unit in units]
    mine = step_rows(lengths, replicas, micro_batches, layout)[replica]
    length = max(row_length([lengths[i] for i in members], layout) for members in mine) if layout.uniform else 0
    return [collate([units[i] for i in m], [first + i for i in m], layout, length) for m in mine]


def padding_batch(batch: Batch) -> Batch:
    """A micro-batch of the same shape without documents: fills up a schedule's number of micro-batches, adds no loss."""
    return dataclasses.replace(
        batch, weights_BS=np.zeros_like(batch.weights_BS), segments_BS=np.zeros_like(batch.segments_BS),
        num_documents=0, positions=(),
    )  # fmt: skip


def eval_batches(
    units: Sequence[Unit], per_batch: int, replicas: int, replica: int, layout: BatchLayout
) -> list[Batch]:
    """Every unit once, similar lengths together: for validation and reference passes.

    `per_batch` units per micro-batch; with a budget, as many as fit it. A replica for which none is left has one without
    documents: in the first forward pass after an update the replicas gather the weights from each other.
    """
    lengths = [part_lengths(unit, layout) for unit in units]
    order = sorted(range(len(units)), key=lambda i: (-sum(lengths[i]), i))
    if layout.budget:
        rows = packing.in_order([unit_length(lengths[i], layout) for i in order], layout.budget)
        every = [[order[i] for i in row] for row in rows]
    else:
        every = [order[i : i + per_batch] for i in range(0, len(order), per_batch)]
    groups = every[replica::replicas]
    if every and not groups:
        return [padding_batch(collate([units[i] for i in every[-1]], every[-1], layout))]
    length = num_rows = 0
    if layout.uniform:  # the last group has fewer units than the others
        length = max((row_length([lengths[i] for i in m], layout) for m in groups), default=0)
        num_rows = max((sum(len(units[i]) for i in m) for m in groups), default=0)
    return [collate([units[i] for i in m], m, layout, length, num_rows) for m in groups]
