r"""Scores of LLM-as-a-Judge: the judge's input, the parser of its text, the mean over the draws.

The parser's rule: the LAST statement of a score that the judge itself makes counts (`Score: k`, `Score = k`, `Score is k`,
`Score: $\boxed{k}$`), tolerant of case, markdown, brackets, spacing, full-width signs, "/5", "out of 5", "points" and
decimals. When that last statement is not one number in 0..max_score on that scale (a range, a choice, "8/10", negative,
spelled out, truncated, or followed by anything that is not known to be harmless), the judgement is unparsable: None, never
a number, and never an earlier statement instead.
"""

import math
import re
from collections.abc import Iterable, Sequence

from nemo_srlm.config.generation import JudgeSection
from nemo_srlm.core.records import Judgement
from nemo_srlm.data import templates
from nemo_srlm.judge.quotes import LETTER, Reading, Span, read
from nemo_srlm.judge.statements import CLOSE, LINE, OPEN, behind_thinking, half_width, is_harmless, on_line

_HEAD = re.compile(
    rf"(?<!(?!_){LETTER})score{CLOSE}*(?:\((?P<scale>[^()\n]{{0,40}})\){CLOSE}*)?"
    rf"(?::|(?:=|is\b)(?={OPEN}*[0-9]))",  # "the score is based on ..." states none
    re.IGNORECASE,
)
_VALUE = re.compile(rf"(?P<gap>{OPEN}*)(?P<number>[0-9]+(?:\.[0-9]+)?)")
_UNIT = re.compile(
    r"[ \t*_]*(?:(?:points?|pts?|stars?|punkte?n?|puntos?|pontos?|punti|punto|балл(?:а|ов)?|étoiles?"
    r"|نقاط|نقطة|درجات|درجة|अंक|নম্বর)(?![^\W_])|分|点|點|점|คะแนน)",
    re.IGNORECASE,
)
_SCALE = re.compile(
    rf"{CLOSE}*[(\[]?[ \t]*"
    r"(?:/|\bout[ \t]+of\b(?:[ \t]+an?)?(?:[ \t]+(?:possible|maximum|total))?(?:[ \t]+of)?|\b(?:of|von|de|sobre|sur|su|из|من)\b"
    r"|จาก|เต็ม)"
    rf"{CLOSE}*(?P<max>[0-9]+(?:\.[0-9]+)?|five\b)(?![0-9])",
    re.IGNORECASE,
)
_SPACES = re.compile(r"[ \t]+")
_OUR_SCALE = re.compile(
    r"(?:on[ \t]+a[ \t]+scale[ \t]+(?:of|from)[ \t]+)?"
    r"[ \t]*(?:/|(?:out[ \t]+of|max(?:imum)?\.?|von|sur|de|sobre|su|из|满分|滿分|จาก|เต็ม|[01][ \t]*(?:-|–|to|bis))[ \t]*)?"
    r"(?P<max>[0-9]+)(?:[ \t]*(?:points?|punkte|puntos|pontos|punti|分|点満点中?|点|점[ \t]*만점|점|คะแนน))?[ \t]*",
    re.IGNORECASE,
)
_BRACKET = re.compile(r"[ \t]*\(([^()\n]*)\)")
_SUM = re.compile(r"[ \t]*=[ \t]*([0-9]+(?:[ \t]*\+[ \t]*[0-9]+)+)")
_PART = r"[0-9]+[ \t]+(?:points?[ \t]+)?for[ \t]+[^0-9,;+]+"
_PARTS = re.compile(rf"{_PART}(?:[,;+][ \t]*(?:and[ \t]+)?{_PART})+")
_SAYS_OWN_SCORE = re.compile(
    r"(?:^|[.!?:;)\]\"”’。！？：])$|(?:^|\W)(?:total|final|overall|my|the|gesamt|finale[rs]?|mein|globale?|totale|mon|mi|meu|итоговый|общий)$"
    r"|(?:最終|総合|合計|最终|总|總|최종|총|สุดท้าย|รวม)(?:的|の)?$",
    re.IGNORECASE,
)


def judge_input(template: str, instruction: str, response: str) -> str:
    """The judge's user turn: the template with this instruction and response, whole and unchanged."""
    return templates.fill(template, INSTRUCTION=instruction, RESPONSE=response)


def parse_score(text: str, max_score: int = 5, truncated: bool = False, response: str = "") -> float | None:
    """The score that a judgement of `response` states, or None when it states none (see the module's rule).

    `truncated`: the judgement hit its token limit. Then the conclusion may be missing, so the last statement counts
    only when its line is finished (a cut "Score: 3" may have been "Score: 3 or 4") and when it is not a partial score
    such as "Relevance score: 1".
    """
    text = half_width(text)
    reading = read(text, _HEAD, _VALUE, _number, [half_width(response)] if response else [])
    if not reading.own or (value := reading.own[-1].value) is None or len(value["number"]) > 12:
        return None
    head = reading.own[-1].head
    if not _scale_is_ours(head["scale"], max_score) or not _is_conclusion(text, reading):
        return None
    line, finished = on_line(text, value.end())
    near = _SPACES.sub(" ", _without_foreign_scores(text, reading.foreign, value.end(), line))[:LINE]
    rest = near[_end(_UNIT, near) :]
    if (scale := _SCALE.match(rest)) is not None:
        if float("5" if scale["max"].lower() == "five" else scale["max"]) != max_score:
            return None
        rest = rest[scale.end() :]
        rest = rest[_end(_UNIT, rest) :]
    score = float(value["number"])
    if not is_harmless(_without_remark(rest, score, max_score)):
        return None
    if "\n" in value["gap"] and rest.strip(" *_`\"'])}>$|.\r"):
        return None  # "Score:" and then, on another line, a sentence or list item that happens to begin with a number
    if truncated and (not finished or not _SAYS_OWN_SCORE.search(_before(text, head.start()))):
        return None
    return score if score <= max_score else None


def _number(value: re.Match[str]) -> float:
    return float(value["number"])


def _is_conclusion(text: str, reading: Reading) -> bool:
    """Whether the last of the judge's statements is its conclusion, beside what the response states of itself.

    Not a partial score before a statement that may be the response's. Not a plain statement that the response has, too, where
    the judge stated another before.
    """
    last = reading.own[-1]
    if reading.unsure and not _SAYS_OWN_SCORE.search(_before(text, last.head.start())):
        return False
    values = {_number(one.value) for one in reading.own if one.value}
    return not (last.repeated and len(values) > 1)


def _without_foreign_scores(text: str, spans: Sequence[Span], start: int, line: str) -> str:
    """The `line` from text[start] on, blank where it holds a score that is not the judge's."""
    if _HEAD.search(line) is None:
        return line
    blank, end = list(line), start + len(line)
    for first, last in spans:
        if start <= first < end and _HEAD.search(text, first, last):
            stop = min(last, end)
            blank[first - start : stop - start] = " " * (stop - first)
    return "".join(blank)


def _without_remark(rest: str, score: float, max_score: int) -> str:
    """`rest` without a remark in numbers that only explains the score: our scale in brackets, or parts that add up to it."""
    if (bracket := _BRACKET.match(rest)) is not None:
        inside = bracket[1].strip()
        ours = _OUR_SCALE.fullmatch(inside)
        parts = _PARTS.fullmatch(inside)
        if (ours and not inside.isdigit() and int(ours["max"]) == max_score) or (parts and _adds_up(inside, score)):
            return rest[bracket.end() :]
    equation = _SUM.match(rest)
    return rest[equation.end() :] if equation and _adds_up(equation[1], score) else rest


def _adds_up(text: str, score: float) -> bool:
    return sum(map(int, re.findall(r"[0-9]+", text))) == score


def _end(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.match(text)
    return match.end() if match else 0


def _before(text: str, position: int) -> str:
    """The text before `position` on its line, without markdown and spaces."""
    return text[text.rfind("\n", 0, position) + 1 : position].strip(" \t*_`#>-|\r")


def _scale_is_ours(scale: str | None, max_score: int) -> bool:
    """Whether the bracket of "Score (out of 5):" names our scale, or there is none."""
    if scale is None:
        return True
    match = _OUR_SCALE.fullmatch(scale)
    return match is not None and int(match["max"]) == max_score


def parse_draws(
    texts: Sequence[str], finish_reasons: Sequence[str], max_score: int = 5, response: str = "", thinking_end: str = ""
) -> tuple[float | None, ...]:
    """One score (or None) per draw about `response`; a draw whose finish reason is "length" is parsed as truncated.

    thinking_end: the mark behind which a reasoning judge states its score.
    """
    return tuple(
        parse_score(behind_thinking(text, thinking_end, reason == "length"), max_score, reason == "length", response)
        for text, reason in zip(texts, finish_reasons, strict=True)
    )


def aggregate(scores: Iterable[float | None], min_valid: int) -> float | None:
    """The mean of the parsed draws, not rounded; None when fewer than `min_valid` parsed (or none did).

    fsum, so that the order of the draws cannot make two equal means differ.
    """
    valid = [score for score in scores if score is not None]
    return math.fsum(valid) / len(valid) if valid and len(valid) >= min_valid else None


def spread(judgement: Judgement) -> float | None:
    """Standard deviation of a judgement's score: of its parsed draws, or of the distribution where one was read."""
    valid = [score for score in judgement.scores if score is not None]
    if judgement.spread is not None or not valid:
        return judgement.spread
    mean = math.fsum(valid) / len(valid)
    return math.sqrt(math.fsum((score - mean) ** 2 for score in valid) / len(valid))


def required_valid(judge: JudgeSection) -> int:
    """How many parsed draws a candidate needs: `min_valid`, or 1 where the method makes a single score."""
    return 1 if judge.method == "expected" else judge.min_valid
