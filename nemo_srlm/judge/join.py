"""Joins the files of prompts, candidates and judgements by prompt, in one streamed pass with constant memory.

All of them are in prompt order (their stages merge them so) and are read in parallel, one prompt at a time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec

from nemo_srlm.errors import DataError
from nemo_srlm.judge.pairing import Scored
from nemo_srlm.judge.scores import aggregate

BLOCK = 1 << 18  # bytes decoded at once


# Only the fields of core.records Prompt, Candidate and Judgement that pairing needs. msgspec skips the texts of a
# judgement without building strings: with the standard library's json the stage `pairs` takes four times as long.
class PromptRow(msgspec.Struct, gc=False):
    id: str
    text: str


class CandidateRow(msgspec.Struct, gc=False):
    id: str
    prompt_id: str
    text: str
    error: str


class JudgementRow(msgspec.Struct, gc=False):
    id: str
    prompt_id: str
    scores: tuple[float | None, ...]
    error: str


Row = TypeVar("Row", PromptRow, CandidateRow, JudgementRow)
RowOfPrompt = TypeVar("RowOfPrompt", CandidateRow, JudgementRow)


class RowReader(Generic[Row]):
    """The rows of a JSONL file, decoded one block of lines at a time; `position` is the number of bytes read."""

    def __init__(self, path: Path, cls: type[Row]) -> None:
        self.path, self.position = path, 0
        self._decoder: msgspec.json.Decoder[Row] = msgspec.json.Decoder(cls)

    def __iter__(self) -> Iterator[Row]:
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
        """The error for the first line of a block that is not a valid row."""
        for number, line in enumerate(block.split(b"\n"), before + 1):
            try:
                self._decoder.decode(line)
            except msgspec.MsgspecError as error:
                return DataError(f"{self.path}:{number}", f"{error}", "a record of this stage")
        raise AssertionError("every line of a broken block is whole")


class PromptGroups(Generic[RowOfPrompt]):
    """The rows of a file grouped by prompt, with a look-ahead of one prompt."""

    def __init__(self, path: Path, cls: type[RowOfPrompt]) -> None:
        self.path, self.line = path, 1  # line of the next row
        self._groups: Iterator[tuple[str, Iterator[RowOfPrompt]]] = groupby(
            RowReader(path, cls), attrgetter("prompt_id")
        )
        self.next: tuple[str, Iterator[RowOfPrompt]] | None = next(self._groups, None)

    def of(self, prompt_id: str) -> list[RowOfPrompt]:
        """The next rows where they belong to this prompt, else []."""
        if self.next is None or self.next[0] != prompt_id:
            return []
        found = list(self.next[1])
        self.line += len(found)
        self.next = next(self._groups, None)
        return found


@dataclass(frozen=True)
class ScoredFiles:
    """The files of records Prompt, Candidate and Judgement, all in prompt order.

    votes: more scores of the candidates, of which each one's `vote_weight`-fold is added (both are needed for a score).
    previous: judgements of the same candidates by an earlier model. anchors: candidates and judgements of an earlier model.
    """

    prompts: Path
    candidates: Path
    judgements: Path
    votes: Path | None = None
    vote_weight: float = 0.0
    previous: Path | None = None
    anchors: tuple[Path, Path] | None = None


class _Scores:
    """The scores in a file of judgements, a prompt at a time."""

    def __init__(self, path: Path, min_valid: int) -> None:
        self.rows, self.min_valid = PromptGroups(path, JudgementRow), min_valid

    def of(self, prompt_id: str, candidates: Iterable[CandidateRow]) -> list[float | None]:
        """The score of each candidate. Raises DataError when one that was made has no judgement."""
        judged = {row.id: row for row in self.rows.of(prompt_id)}
        found: list[float | None] = []
        for candidate in candidates:
            if candidate.error:
                found.append(None)
            elif row := judged.get(candidate.id):
                found.append(None if row.error else aggregate(row.scores, self.min_valid))
            else:
                raise DataError(
                    f"{self.rows.path}:{self.rows.line}", f"no judgement on candidate {candidate.id} of {prompt_id}",
                    "one judgement per candidate, in the order of the prompts", "run the judge stage again",
                )  # fmt: skip
        return found


class ScoredPrompt(NamedTuple):
    """A prompt with its candidates and, where there are any, anchors; `position`: bytes of the prompts' file read so far."""

    prompt: PromptRow
    candidates: list[Scored]
    anchors: list[Scored] | None
    position: int


def prompts_with_scores(files: ScoredFiles, min_valid: int) -> Iterator[ScoredPrompt]:
    """Every prompt in order. Raises DataError when a candidate has no judgement, or when the files are not in one order."""
    of_prompts, candidates = RowReader(files.prompts, PromptRow), PromptGroups(files.candidates, CandidateRow)
    scores = _Scores(files.judgements, min_valid)
    votes = _Scores(files.votes, 1) if files.votes else None
    previous = _Scores(files.previous, min_valid) if files.previous else None
    anchors = (
        (PromptGroups(files.anchors[0], CandidateRow), _Scores(files.anchors[1], min_valid)) if files.anchors else None
    )
    for prompt in of_prompts:
        made = candidates.of(prompt.id)
        found = scores.of(prompt.id, made)
        if votes:
            shares = votes.of(prompt.id, made)
            # rounded: two means and shares whose sums are equal are a tie, whatever the rounding of each was
            found = [None if a is None or b is None else round(a + files.vote_weight * b, 9)
                     for a, b in zip(found, shares, strict=True)]  # fmt: skip
        before = previous.of(prompt.id, made) if previous else [None] * len(made)
        scored = [Scored(c.text, a, b, not c.error) for c, a, b in zip(made, found, before, strict=True)]
        others = None
        if anchors:
            rows = anchors[0].of(prompt.id)
            others = [
                Scored(c.text, s, made=not c.error) for c, s in zip(rows, anchors[1].of(prompt.id, rows), strict=True)
            ]
        yield ScoredPrompt(prompt, scored, others, of_prompts.position)
    judged = [s.rows for s in (scores, votes, previous, *(anchors or ())[1:]) if s]
    for rows in (candidates, *(anchors or ())[:1], *judged):
        if rows.next is not None:
            raise DataError(
                f"{rows.path}:{rows.line}", f"a record of prompt {rows.next[0]}, which is not expected here",
                f"the prompts of {files.prompts} in their order", "run the stage that writes it again",
            )  # fmt: skip
