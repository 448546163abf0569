"""The prompt in a writer's raw output: cut at its end, without the label or the chat before it, or the reason why there is none.

A model may write the list's label again ("Task 9:"), greet first ("Sure! Here is a new task:"), or write a task whose input
stands behind a separator ("Input: ..."): the prompt alone could not be answered then.
"""

import re
from dataclasses import dataclass

from nemo_srlm.config.generation import PromptsSection
from nemo_srlm.data.few_shot import parse_written, shot_separator
from nemo_srlm.data.templates import ShotTemplate

_AROUND = r"[\s*_#>`\"“„«「『]*"  # markdown and quotes before a label, and behind it
_NO_INPUT = re.compile(r"\W*(?:no ?input|none|n/?a|keine?|ninguna?|aucune?|なし|无|無|ไม่มี)?\W*", re.IGNORECASE)
_QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "「": "」", "『": "』"}
# What may stand between "the following" and the end of a sentence that names no input: words, "three-line", "in 3 sentences".
_REST = r"(?:[^:：.!?…。！？,;\"“”()\d\n'’-]|(?<=\w)['’-](?=\w)|\d+(?=[ -](?:word|sentence|line|point|paragraph|bullet|step)))*"


@dataclass(frozen=True)
class Reader:
    """How the outputs of a writer are read. `stops` end the generation; behind an input mark it goes on, to be looked at."""

    separators: tuple[str, ...]
    input_marks: tuple[str, ...]
    opening: re.Pattern[str]  # label or chat before a task
    points: re.Pattern[str]  # the end of a task that points to an input behind it

    @classmethod
    def of(cls, section: PromptsSection, template: ShotTemplate) -> "Reader":
        own_mark = shot_separator(template)
        separators = (*section.separators, *([own_mark] if own_mark else []))
        openings = [*([label] if (label := _label(template)) else []), *section.openings]
        words = "|".join(map(re.escape, section.input_words))
        return cls(
            tuple(dict.fromkeys([*separators, *section.input_marks])),
            tuple(section.input_marks),
            re.compile(rf"{_AROUND}(?:{'|'.join(openings)}){_AROUND}" if openings else r"(?!)", re.IGNORECASE),
            re.compile(rf"[:：]$|(?:{words}){_REST}[.!?。！？]*$" if words else r"[:：]$", re.IGNORECASE),
        )

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(mark for mark in self.separators if mark not in self.input_marks)

    def read(self, text: str, truncated: bool) -> tuple[str, str]:
        """(prompt, ""), or ("", reason): "empty", "truncated", or "needs_input" (it asks about a text that is not there)."""
        text = self._without_opening(text.strip())  # first: a separator may begin as the label does ("\nTask ")
        body, reason = parse_written(text, truncated, self.separators)
        cut = truncated and text.endswith(self.input_marks)
        if not reason and (
            cut or self.points.search(body.rstrip(' *_`"”')) or not _NO_INPUT.fullmatch(self._input(text))
        ):
            return "", "needs_input"
        return body, reason

    def _without_opening(self, text: str) -> str:
        while (found := self.opening.match(text)) and found.end():
            rest = text[found.end() :].strip()
            opened = next((mark for mark in found[0] if mark in _QUOTES), "")
            text = rest.removesuffix(_QUOTES[opened]).strip() if opened else rest
        return text

    def _input(self, text: str) -> str:
        """What stands behind the first separator of a text, up to the next one, if that separator is the mark of an input."""
        ends = [(at, mark) for mark in self.separators if mark and (at := text.find(mark)) >= 0]
        at, mark = min(ends, default=(0, ""))
        rest = text[at + len(mark) :] if mark in self.input_marks else ""
        return rest[: min((at for stop in self.stops if (at := rest.find(stop)) >= 0), default=len(rest))]


def _label(template: ShotTemplate) -> str:
    """A regular expression of the label before a task in the template, with any number: "Task 9:"; "" where it has none."""
    line = template.tail.rpartition("\n")[2].strip()
    before, mark, after = line.partition("<NUMBER_HERE>")
    if not mark:
        return ""
    flat = [r"\s*".join(re.escape(word) for word in part.split()) for part in (before, after.rstrip(" :："))]
    return rf"{flat[0]}\s*\d+\s*{flat[1]}\s*[:：.)]"
