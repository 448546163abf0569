"""Shared-prefix rows: the prompt of a preference pair is read once, and both responses follow it.

A pack is a sequence of parts. A part is a whole document; or the beginning that two documents share; or the rest of one of
them, which sees the shared part whole and itself causally, at the positions that follow it. Only inputs without a loss
are shared, so the last token of the prompt, from which a response's first token is predicted, belongs to both rests.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_srlm.data.chat import Document

# shared inputs: with fewer, three calls of attention in place of two cost what they save (0.9M parameters, a CPU)
SHORTEST = 8


@dataclass(frozen=True)
class Part:
    """Inputs `start` .. `end` - 1 of a document, by its number in the micro-batch. `prefix`: the place in the row of the
    part that ends at `start` and is not this document's alone, -1 for none."""

    document: int
    start: int
    end: int
    prefix: int = -1

    @property
    def length(self) -> int:
        return self.end - self.start


def shared_inputs(one: Document, other: Document, align: int = 1) -> int:
    """How many inputs at the beginning of both documents are equal and predict nothing that counts: a multiple of `align`,
    so that no padding stands between them and the rests; 0 where sharing saves nothing."""
    length = min(one.num_inputs, other.num_inputs)
    inputs, labels = slice(length), slice(1, length + 1)
    shared = (one.ids[inputs] == other.ids[inputs]) & (one.weights[labels] == 0) & (other.weights[labels] == 0)
    count = length - 1 if shared.all() else int(shared.argmin())
    count -= count % align
    return count if count >= SHORTEST else 0


def cut(unit: Sequence[Document], first: int, shared: int) -> list[Part]:
    """The parts of a unit, with documents numbered from `first`; its first two documents share `shared` inputs. `prefix`
    counts from the first part."""
    whole = [Part(first + i, 0, document.num_inputs) for i, document in enumerate(unit)]
    if not shared:
        return whole
    rests = [Part(part.document, shared, part.end, 0) for part in whole[:2]]
    return [Part(first, 0, shared), *rests, *whole[2:]]


def in_row(units: Sequence[Sequence[Part]]) -> list[Part]:
    """The parts of units in the order of their row, so that one part follows what it shares, and `prefix` counts from the
    row's first. Longest first: neighbours of equal length share one call of the CPU's attention kernel."""
    groups: list[Sequence[Part]] = []
    for parts in units:
        together = 1 + max((i for i, part in enumerate(parts) if part.prefix >= 0), default=0)
        groups += [parts[:together], *([part] for part in parts[together:])]
    groups.sort(key=lambda group: (-group[0].length, group[0].document))
    places = itertools.accumulate(map(len, groups), initial=0)
    return [
        dataclasses.replace(part, prefix=place + part.prefix) if part.prefix >= 0 else part
        for place, group in zip(places, groups, strict=False) for part in group
    ]  # fmt: skip
