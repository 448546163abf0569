"""Owns the way from text to token ids and loss weights, and from examples to micro-batches: chat, order, packing.

Knows numpy and `tokenizers` only. Shapes: B rows, S positions of a row, N documents of a micro-batch.
A document is one token sequence; a unit is what must stay together (one document, or a pair and its replay example).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nemo_srlm.data.chat import Document, Weights

Unit = tuple[Document, ...]


def fits(unit: Unit, max_length: int) -> str:
    """ "" when every document of a unit can be trained on, else the reason for dropping the unit."""
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
    """The unit at `position` of the endless stream of shuffled epochs: no state, so any step can be resumed."""
    return int(_permutation(num, seed, position // num)[position % num])


def balance(sizes: Sequence[int], bins: int, sort_only: bool = False) -> list[list[int]]:
    """Splits positions 0..len(sizes)-1 into `bins` of equal count and near-equal size. Deterministic.

    Longest first into the lightest bin with room; `sort_only` instead puts neighbours in length together (for rows
    that are padded to their longest). The gradient does not depend on it: the loss divides by global counts.
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

    Early and late chunks are paired so that every rank does the same causal work (Megatron's and TE's order).
    """
    chunk = length // (2 * size)
    assert chunk * 2 * size == length, (length, size)
    late = 2 * size - 1 - rank
    return np.concatenate([np.arange(c * chunk, (c + 1) * chunk, dtype=np.int64) for c in (rank, late)])


# --- micro-batches -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """One micro-batch. Documents are numbered unit by unit; padding belongs to document N, with weight 0.

    With `bounds_N1` every row is a pack of documents (B = 1), else every row is one document, padded at its end.
    """

    tokens_BS: npt.NDArray[np.int64]
    labels_BS: npt.NDArray[np.int64]  # the next token
    weights_BS: Weights  # loss weight of the label
    segments_BS: npt.NDArray[np.int64]  # number of the document
    positions_S: npt.NDArray[np.int64]  # restart at every document
    bounds_N1: npt.NDArray[np.int64] | None  # cumulative lengths of documents (padding included), in row order
    num_documents: int
    positions: tuple[int, ...]  # of the units in the stream of examples

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads, without padding."""
        return int((self.segments_BS < self.num_documents).sum())

    @property
    def squared_lengths(self) -> int:
        """Sum over documents of their squared length: what causal attention's work grows with."""
        lengths = np.bincount(self.segments_BS.reshape(-1), minlength=self.num_documents)[: self.num_documents]
        return int((lengths**2).sum())


@dataclass(frozen=True)
class BatchLayout:
    """How micro-batches are laid out. `align`: every document's length, `multiple`: the row's length divides by it."""

    packed: bool
    align: int = 1  # 2 x context-parallel size
    multiple: int = 1  # tensor-parallel size with sequence parallelism, FP8 block, ...
    uniform: bool = False  # all micro-batches of a step equally long: pipeline stages exchange one shape


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def row_length(units: Sequence[Unit], shape: BatchLayout) -> int:
    """Positions of a row that holds these units."""
    lengths = [_round_up(d.num_inputs, shape.align) for unit in units for d in unit]
    return _round_up(sum(lengths) if shape.packed else max(lengths), shape.multiple)


def collate(units: Sequence[Unit], positions: Sequence[int], shape: BatchLayout, length: int = 0) -> Batch:
    """A micro-batch of whole units, its rows at least `length` long."""
    documents = [document for unit in units for document in unit]
    length = max(length, row_length(units, shape))
    num = len(documents)
    rows = 1 if shape.packed else num
    tokens, labels = np.zeros((rows, length), np.int64), np.zeros((rows, length), np.int64)
    weights = np.zeros((rows, length), np.float32)
    segments = np.full((rows, length), num, np.int64)
    row_positions = np.arange(length, dtype=np.int64)
    # longest first: neighbours of equal length share one attention kernel on the CPU
    order = sorted(range(num), key=lambda i: (-documents[i].num_inputs, i)) if shape.packed else range(num)
    bounds, start = [0], 0
    for row, number in enumerate(order):
        document = documents[number]
        n = document.num_inputs
        at = (0, slice(start, start + n)) if shape.packed else (row, slice(0, n))
        tokens[at], labels[at], weights[at] = document.ids[:-1], document.ids[1:], document.weights[1:]
        segments[at] = number
        if shape.packed:
            padded = _round_up(n, shape.align)
            row_positions[start : start + padded] = np.arange(padded)
            start += padded
            bounds.append(start)
    if shape.packed and start < length:
        row_positions[start:] = np.arange(length - start)
        bounds.append(length)
    return Batch(
        tokens, labels, weights, segments, row_positions, np.array(bounds, np.int64) if shape.packed else None,
        num, tuple(positions),
    )  # fmt: skip


def step_batches(
    unit_at: Callable[[int], Unit],
    step: int,
    global_batch: int,
    replicas: int,
    micro_batches: int,
    replica: int,
    shape: BatchLayout,
) -> list[Batch]:
    """The micro-batches of one replica in one step: units step*G .. (step+1)*G-1 of the stream, dealt over all replicas."""
    first = step * global_batch
    units = [unit_at(first + i) for i in range(global_batch)]
    sizes = [sum(d.num_inputs for d in unit) for unit in units]
    bins = balance(sizes, replicas * micro_batches, sort_only=not shape.packed)
    mine = bins[replica::replicas]
    length = max(row_length([units[i] for i in members], shape) for members in mine) if shape.uniform else 0
    return [collate([units[i] for i in m], [first + i for i in m], shape, length) for m in mine]


def padding_batch(batch: Batch) -> Batch:
    """The same tensors with no document in them: keeps a schedule's count of micro-batches whole, adds nothing."""
    return dataclasses.replace(
        batch, weights_BS=np.zeros_like(batch.weights_BS), segments_BS=np.zeros_like(batch.segments_BS),
        num_documents=0, positions=(),
    )  # fmt: skip


def eval_batches(units: Sequence[Unit], per_batch: int, replicas: int, replica: int, shape: BatchLayout) -> list[Batch]:
    """Every unit once, `per_batch` to a micro-batch, similar lengths together: for validation and reference passes."""
    order = sorted(range(len(units)), key=lambda i: (-sum(d.num_inputs for d in units[i]), i))
    groups = [order[i : i + per_batch] for i in range(0, len(order), per_batch)][replica::replicas]
    length = max((row_length([units[i] for i in m], shape) for m in groups), default=0) if shape.uniform else 0
    return [collate([units[i] for i in m], m, shape, length) for m in groups]
