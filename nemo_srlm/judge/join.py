"""Prompts, candidates and judgements read side by side, one prompt at a time, with flat memory."""

from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from nemo_srlm.errors import DataError
from nemo_srlm.judge.pairing import Scored
from nemo_srlm.judge.scores import aggregate

BLOCK = 1 << 18  # bytes that are decoded at once


# The fields that are needed here, of records.Prompt, Candidate and Judgement. msgspec passes over the texts of a
# judgement without building them: with the standard library's json this stage takes four times as long.
class _Prompt(msgspec.Struct, gc=False):
    id: str
    text: str


class _Candidate(msgspec.Struct, gc=False):
    id: str
    prompt_id: str
    text: str
    error: str


class _Judgement(msgspec.Struct, gc=False):
    id: str
    prompt_id: str
    scores: tuple[float | None, ...]
    error: str


S = TypeVar("S", _Prompt, _Candidate, _Judgement)


R = TypeVar("R", _Candidate, _Judgement)


class _Rows(Generic[S]):
    """The rows of a JSONL file, decoded a block of lines at a time; says where it is."""

    def __init__(self, path: Path, cls: type[S]) -> None:
        self.path, self.position = path, 0  # bytes read so far
        self._decoder: msgspec.json.Decoder[S] = msgspec.json.Decoder(cls)

    def __iter__(self) -> Iterator[S]:
        line = 0
        try:
            with self.path.open("rb") as file:
                while block := file.read(BLOCK) + file.readline():
                    self.position += len(block)
                    try:
                        rows = self._decoder.decode_lines(block)
                    except msgspec.MsgspecError:
                        raise self._broken(block, line) from None
                    line += len(rows)
                    yield from rows
        except FileNotFoundError as error:
            raise DataError(self.path, "no such file", remedy="run the stage that writes it") from error

    def _broken(self, block: bytes, before: int) -> DataError:
        """Names the first line of a block that is no row."""
        for number, line in enumerate(block.split(b"\n"), before + 1):
            try:
                self._decoder.decode(line)
            except msgspec.MsgspecError as error:
                return DataError(f"{self.path}:{number}", f"{error}", "a record of this stage")
        raise AssertionError("every line of a broken block is whole")


class _ByPrompt(Generic[R]):
    """Consecutive rows of one prompt together, with one prompt of look-ahead."""

    def __init__(self, path: Path, cls: type[R]) -> None:
        self.path, self.number = path, 1  # line of the next row
        self._groups: Iterator[tuple[str, Iterator[R]]] = groupby(_Rows(path, cls), attrgetter("prompt_id"))
        self.next: tuple[str, Iterator[R]] | None = next(self._groups, None)

    def of(self, prompt_id: str) -> list[R]:
        """The next rows, when they belong to this prompt."""
        if self.next is None or self.next[0] != prompt_id:
            return []
        found = list(self.next[1])
        self.number += len(found)
        self.next = next(self._groups, None)
        return found


def prompts_with_scores(
    prompts: Path, candidates: Path, judgements: Path, min_valid: int
) -> Iterator[tuple[_Prompt, list[Scored], int]]:
    """(prompt, its candidates scored, bytes of `prompts` read), in prompt order.

    Raises DataError when a candidate has no judgement, or when the files are not in one order.
    """
    of_prompts = _Rows(prompts, _Prompt)
    of_candidates, of_judgements = _ByPrompt(candidates, _Candidate), _ByPrompt(judgements, _Judgement)
    for prompt in of_prompts:
        judged = {row.id: row for row in of_judgements.of(prompt.id)}
        scored = []
        for candidate in of_candidates.of(prompt.id):
            if candidate.error:
                scored.append(Scored(candidate.text, None))
            elif row := judged.get(candidate.id):
                scored.append(Scored(candidate.text, None if row.error else aggregate(row.scores, min_valid)))
            else:
                raise DataError(
                    f"{judgements}:{of_judgements.number}", f"no judgement on candidate {candidate.id} of {prompt.id}",
                    "one judgement a candidate, in the order of the prompts", "run the judge stage again",
                )  # fmt: skip
        yield prompt, scored, of_prompts.position
    for rows in (of_candidates, of_judgements):
        if rows.next is not None:
            raise DataError(
                f"{rows.path}:{rows.number}", f"a record of prompt {rows.next[0]}, which does not come here",
                f"the prompts of {prompts} in their order", "run the stage that writes it again",
            )  # fmt: skip
