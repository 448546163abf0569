"""Joins the files of prompts, candidates and judgements by prompt, in one streamed pass with constant memory.

All three are in prompt order (their stages merge them so) and are read in parallel, one prompt at a time.
"""

from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Generic, TypeVar

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


def prompts_with_scores(
    prompts: Path, candidates: Path, judgements: Path, min_valid: int
) -> Iterator[tuple[PromptRow, list[Scored], int]]:
    """(prompt, its candidates scored, bytes of `prompts` read), in prompt order.

    Raises DataError when a candidate has no judgement, or when the files are not in one order.
    """
    of_prompts = RowReader(prompts, PromptRow)
    of_candidates, of_judgements = PromptGroups(candidates, CandidateRow), PromptGroups(judgements, JudgementRow)
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
                    f"{judgements}:{of_judgements.line}", f"no judgement on candidate {candidate.id} of {prompt.id}",
                    "one judgement per candidate, in the order of the prompts", "run the judge stage again",
                )  # fmt: skip
        yield prompt, scored, of_prompts.position
    for rows in (of_candidates, of_judgements):
        if rows.next is not None:
            raise DataError(
                f"{rows.path}:{rows.line}", f"a record of prompt {rows.next[0]}, which is not expected here",
                f"the prompts of {prompts} in their order", "run the stage that writes it again",
            )  # fmt: skip
