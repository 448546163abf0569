"""Owns the way from text to token ids and loss weights, and from examples to micro-batches: chat, order, packing.

Knows numpy and `tokenizers` only. Shapes: B rows, S positions of a row, N documents of a micro-batch.
A document is one token sequence; a unit is what must stay together (one document, or a pair and its replay example).
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nemo_srlm.config import ChatSection
from nemo_srlm.errors import CheckpointError

Ids = npt.NDArray[np.int32]
Weights = npt.NDArray[np.float32]


class Tokenizer:
    """The one tokenizer of a run: `tokenizer.json` of an HF directory, with its begin and end tokens."""

    def __init__(self, directory: Path | str) -> None:
        """Raises CheckpointError when a file is missing or names no begin or end token."""
        from tokenizers import Tokenizer as Core

        self.directory = Path(directory)
        path = self.directory / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(path, "no such file", "the tokenizer of an HF model directory")
        self._core = Core.from_file(str(path))
        config = self.directory / "tokenizer_config.json"
        try:
            named = json.loads(config.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CheckpointError(config, "no such file", "tokenizer_config.json with bos_token, eos_token") from error
        self.bos_id = self._special(named, "bos_token", config)
        self.eos_id = self._special(named, "eos_token", config)
        self.vocab_size: int = self._core.get_vocab_size(with_added_tokens=True)

    def _special(self, named: dict[str, Any], key: str, config: Path) -> int:
        token = named.get(key)
        text = token["content"] if isinstance(token, dict) else token
        found = self._core.token_to_id(text) if isinstance(text, str) else None
        if found is None:
            raise CheckpointError(config, f"{key} is {token!r}", "a token of tokenizer.json")
        return int(found)

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone: no begin or end token is added."""
        return list(self._core.encode(text, add_special_tokens=False).ids)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(e.ids) for e in self._core.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._core.decode(list(ids), skip_special_tokens=True))


@dataclass(frozen=True)
class Document:
    """ids_L and the loss weight of predicting each id (weights_L[0] is 0: nothing predicts the first)."""

    ids: Ids
    weights: Weights

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.weights) >= 2
        assert self.weights[0] == 0

    @property
    def num_inputs(self) -> int:
        """Positions that the model reads: the last id is only predicted."""
        return len(self.ids) - 1


Unit = tuple[Document, ...]


@dataclass(frozen=True)
class Chat:
    """One user turn and its response as ids; prompt and response are encoded apart, as vLLM sees them."""

    tokenizer: Tokenizer
    user_prefix: str
    user_suffix: str

    @classmethod
    def of(cls, tokenizer: Tokenizer, section: ChatSection) -> "Chat":
        return cls(tokenizer, section.user_prefix, section.user_suffix)

    def prompt_ids(self, prompt: str) -> list[int]:
        return [self.tokenizer.bos_id, *self.tokenizer.encode(f"{self.user_prefix}{prompt}{self.user_suffix}")]

    def response_ids(self, response: str) -> list[int]:
        return [*self.tokenizer.encode(response), self.tokenizer.eos_id]

    def document(self, prompt: str, response: str) -> Document:
        """The loss is on the response and its end token only."""
        before, after = self.prompt_ids(prompt), self.response_ids(response)
        weights = np.zeros(len(before) + len(after), np.float32)
        weights[len(before) :] = 1.0
        return Document(np.array(before + after, np.int32), weights)


def weighted_document(tokenizer: Tokenizer, segments: Sequence[tuple[str, float]]) -> Document:
    """A pretraining document: begin token, segments encoded one by one with their loss weights, end token (weight 1)."""
    ids, weights = [tokenizer.bos_id], [0.0]
    for text, weight in segments:
        part = tokenizer.encode(text)
        ids += part
        weights += [weight] * len(part)
    ids.append(tokenizer.eos_id)
    weights.append(1.0)
    return Document(np.array(ids, np.int32), np.array(weights, np.float32))


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


def deal(sizes: Sequence[int], bins: int, sort_only: bool = False) -> list[list[int]]:
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
class Shape:
    """How micro-batches are laid out. `align`: every document's length, `multiple`: the row's length divides by it."""

    packed: bool
    align: int = 1  # 2 x context-parallel size
    multiple: int = 1  # tensor-parallel size with sequence parallelism, FP8 block, ...
    uniform: bool = False  # all micro-batches of a step equally long: pipeline stages exchange one shape


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def row_length(units: Sequence[Unit], shape: Shape) -> int:
    """Positions of a row that holds these units."""
    lengths = [_round_up(d.num_inputs, shape.align) for unit in units for d in unit]
    return _round_up(sum(lengths) if shape.packed else max(lengths), shape.multiple)


def collate(units: Sequence[Unit], positions: Sequence[int], shape: Shape, length: int = 0) -> Batch:
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
    shape: Shape,
) -> list[Batch]:
    """The micro-batches of one replica in one step: units step*G .. (step+1)*G-1 of the stream, dealt over all replicas."""
    first = step * global_batch
    units = [unit_at(first + i) for i in range(global_batch)]
    sizes = [sum(d.num_inputs for d in unit) for unit in units]
    bins = deal(sizes, replicas * micro_batches, sort_only=not shape.packed)
    mine = bins[replica::replicas]
    length = max(row_length([units[i] for i in members], shape) for members in mine) if shape.uniform else 0
    return [collate([units[i] for i in m], [first + i for i in m], shape, length) for m in mine]


def filler(batch: Batch) -> Batch:
    """The same tensors with no document in them: keeps a schedule's count of micro-batches whole, adds nothing."""
    return dataclasses.replace(
        batch, weights_BS=np.zeros_like(batch.weights_BS), segments_BS=np.zeros_like(batch.segments_BS),
        num_documents=0, positions=(),
    )  # fmt: skip


def sweep_batches(units: Sequence[Unit], per_batch: int, replicas: int, replica: int, shape: Shape) -> list[Batch]:
    """Every unit once, `per_batch` to a micro-batch, similar lengths together: for validation and reference passes."""
    order = sorted(range(len(units)), key=lambda i: (-sum(d.num_inputs for d in units[i]), i))
    groups = [order[i : i + per_batch] for i in range(0, len(order), per_batch)][replica::replicas]
    length = max((row_length([units[i] for i in m], shape) for m in groups), default=0) if shape.uniform else 0
    return [collate([units[i] for i in m], m, shape, length) for m in groups]
