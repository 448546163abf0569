"""The prompt in a writer's raw output: cut at its end, without the label or the chat before it, or the reason why there is none.

A model may write the list's label again ("Task 9:"), greet first ("Sure! Here is a new task:"), or write a task whose input
stands behind a separator ("Input: ..."): the prompt alone could not be answered then.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nemo_srlm.config.generation import OPENINGS, PromptsSection
from nemo_srlm.data.few_shot import parse_written, shot_separator
from nemo_srlm.data.openings import numbered, opening_end
from nemo_srlm.data.templates import ShotTemplate

_NO_INPUT = re.compile(r"\W*(?:no ?input|none|n/?a|keine?|ninguna?|aucune?|なし|无|無|ไม่มี)?\W*", re.IGNORECASE)
_AROUND = {mark: mark for mark in ("***", "**", "__", "*", "_", "`", '"')} | {
    "“": "”",
    "„": "“",
    "«": "»",
    "「": "」",
    "『": "』",
}
_NO_LIST = r"(?!(?s:.*)\n\s*\d{1,2}[.)]\s)"
_BULLET = re.compile(r"\A(?:[#>]+[ \t]+|[-•][ \t]+)+")
# What may stand between "the following" and the end of a sentence that names no input: words, "three-line", "in 3 sentences".
_REST = r"(?:[^:：.!?…。！？,;\"“”()\d\n'’-]|(?<=\w)['’-](?=\w)|\d+(?=[ -](?:word|sentence|line|point|paragraph|bullet|step)))*"


@dataclass(frozen=True)
class Reader:
    """How the outputs of a writer are read. `stops` end the generation; behind an input mark it goes on, to be looked at."""

    separators: tuple[str, ...]
    input_marks: tuple[str, ...]
    openings: tuple[re.Pattern[str], ...]  # label or chat before a task, beside the grammar of data/openings.py
    points: re.Pattern[str]  # the end of a task that points to an input behind it

    @classmethod
    def of(cls, section: PromptsSection, template: ShotTemplate) -> "Reader":
        own_mark = shot_separator(template)
        separators = (*section.separators, *([own_mark] if own_mark else []))
        number = section.seed_shots + section.generated_shots + 1
        # "9." and any other number, but not of a list, and not where an ordinal is written so ("3. Oktober")
        openings = [
            *_labels(template),
            rf"\(?{number}[.):：．）、](?=\s|[^\x00-\x7f])",
            rf"\(?\d{{1,2}}\)(?=\s){_NO_LIST}",
        ]
        openings += [rf"\d{{1,2}}\.(?=\s){_NO_LIST}"] if section.tokenization == "rouge" else []
        openings += [
            own for own in section.openings if own not in OPENINGS
        ]  # the default: the grammar of data/openings.py
        words = "|".join(map(re.escape, section.input_words))
        return cls(
            tuple(dict.fromkeys([*separators, *section.input_marks])),
            tuple(section.input_marks),
            tuple(re.compile(opening, re.IGNORECASE) for opening in openings),
            re.compile(rf"[:：]$|(?:{words}){_REST}[.!?。！？]*$" if words else r"[:：]$", re.IGNORECASE),
        )

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(mark for mark in self.separators if mark not in self.input_marks)

    def read(self, text: str, truncated: bool) -> tuple[str, str]:
        """(prompt, ""), or ("", reason): "empty", "truncated", or "needs_input" (it asks about a text that is not there)."""
        text = without_opening(text, self.openings)  # first: a separator may begin as the label does ("\nTask ")
        body, reason = parse_written(text, truncated, self.separators)
        if not reason and (self.points.search(body.rstrip(' *_`"”')) or self._lacks_input(text)):
            return "", "needs_input"
        return body, reason

    def _lacks_input(self, text: str) -> bool:
        """Whether the first separator of a text is the mark of an input, and what stands behind it is not there, or is cut off
        with the separator: an input, or nothing at all. "Input: None", or an output behind an empty one, needs none."""
        ends = [(at, mark) for mark in self.separators if mark and (at := f"\n{text}".find(mark)) >= 0]
        at, mark = min(ends, default=(0, ""))
        if mark not in self.input_marks:
            return False
        rest = f"\n{text}"[at + len(mark) :]
        end, stop = min(((at, stop) for stop in self.stops if (at := rest.find(stop)) >= 0), default=(len(rest), ""))
        if rest[:end].strip():
            return not _NO_INPUT.fullmatch(rest[:end])
        return not stop.rstrip().endswith((":", "："))


def without_opening(text: str, own: Sequence[re.Pattern[str]] = ()) -> str:
    """The text without greeting, announcement and label at its start. `own`: patterns of more openings."""
    text = text.strip()
    while end := opening_end(text, own):
        text = _unwrapped(text[:end], text[end:].strip())
    return text


def _unwrapped(opening: str, rest: str) -> str:
    """`rest` without what belongs to the opening before it: the end of emphasis or a quote, or marks around all of it."""
    rest = _BULLET.sub("", rest)
    for first, last in _AROUND.items():
        begun = opening.count(first) % 2 if first == last else opening.count(first) > opening.count(last)
        if begun and rest.startswith(last) and first == last:
            return _unwrapped("", rest.removeprefix(last).strip())  # "**Task 9:** Name a bear."
        if begun:
            return rest.removesuffix(last).strip()  # "**Task 9: Name a bear.**"
        inner = rest[len(first) : -len(last)]
        if rest.startswith(first) and rest.endswith(last) and inner and first not in inner and last not in inner:
            return inner.strip()
    return rest


def _labels(template: ShotTemplate) -> list[str]:
    """Regular expressions of the label before a task in the template, with any number: "Task 9:"; none where it has none."""
    line = template.tail.rpartition("\n")[2].strip()
    before, mark, after = line.partition("<NUMBER_HERE>")
    if not mark:
        return []
    flat = [r"\s*".join(re.escape(word) for word in part.split()) for part in (before, after.rstrip(" :："))]
    own = rf"{flat[0]}\s*\d+\s*{flat[1]}\s*[:：.)]"
    return [own, numbered(flat[0])] if any(map(str.isalpha, before)) and not flat[1] else [own]
