"""Scores of LLM-as-a-Judge: the judge's input, the parser of its text, the mean over the draws.

The parser's rule: the LAST `Score: k` of a judgement counts, tolerant of case, markdown, brackets, spacing, "/5",
"out of 5", "points" and decimals. When that last statement is not one number in 0..max_score on that scale (a range, a
choice, "8/10", negative, spelled out, truncated), the judgement is unparsable: None, never a number, and never an
earlier statement instead.
"""

import math
import re
from collections.abc import Iterable, Sequence

from nemo_srlm.config.generation import JudgeSection
from nemo_srlm.core.records import Judgement
from nemo_srlm.data import templates

# What may surround a number without changing it: markdown, quotes, brackets, table bars.
_OPEN = r"[\s*_`\"'\[({<$|]"
_CLOSE = r"[ \t*_`\"'\])}>$|]"
_HEAD = re.compile(rf"(?<![^\W_])score{_CLOSE}*(?:\((?P<scale>[^()\n]{{0,40}})\){_CLOSE}*)?[:：]", re.IGNORECASE)
_VALUE = re.compile(rf"(?P<gap>{_OPEN}*)(?P<number>[0-9]+(?:\.[0-9]+)?)")
_UNIT = re.compile(r"[ \t*_]*(?:points?|pts?|stars?|punkte?n?|puntos?)\b", re.IGNORECASE)
_SCALE = re.compile(
    rf"{_CLOSE}*[(\[]?[ \t]*"
    r"(?:/|\bout[ \t]+of\b(?:[ \t]+an?)?(?:[ \t]+(?:possible|maximum|total))?(?:[ \t]+of)?|\b(?:of|von|de|sobre)\b)"
    rf"{_CLOSE}*(?P<max>[0-9]+(?:\.[0-9]+)?|five\b)(?![0-9])",
    re.IGNORECASE,
)
LOOK_AHEAD = 80  # characters after the number
_SPACES = re.compile(r"[ \t]+")
_JOIN = r"(?:to|through|until|bis|hasta|and|und|or|oder|[aouy])"
_CONTINUES = re.compile(
    r"[^\W_]|[.,:'’][0-9]|[-‐‑–]\w"  # glued: 4th, 4½, 4,5, 4-5, 4-ish
    rf"|{_CLOSE}*(?:"
    r"[0-9/+%]"  # a second number, another scale, a sum, a percentage
    r"|[(\[]?[ \t]*out[ \t]+of\b"  # on a scale that is not ours
    rf"|[-‐‑–—−~,;&(]?[ \t]*(?:or|oder)\b"  # a choice
    r"|and[ \t]+an?[ \t]+(?:half|third|quarter)\b"
    rf"|[-‐‑–—−~,;&][ \t]*{_OPEN}*[0-9]"  # a range or list
    rf"|[(,;]?[ \t]*{_JOIN}[ \t]+{_OPEN}*(?:(?:even|maybe|perhaps|possibly)[ \t]+)?[0-9]"
    r")",
    re.IGNORECASE,
)
_OUR_SCALE = re.compile(
    r"[ \t]*(?:/|(?:out[ \t]+of|max(?:imum)?\.?|von|0[ \t]*(?:-|–|to|bis)|1[ \t]*(?:-|–|to|bis))[ \t]*)?(?P<max>[0-9]+)"
    r"(?:[ \t]*(?:points?|punkte))?[ \t]*",
    re.IGNORECASE,
)
_SAYS_OWN_SCORE = re.compile(r"(?:^|[.!?:;)\]\"”’])$|(?:^|\W)(?:total|final|overall|my|the)$", re.IGNORECASE)


def judge_input(template: str, instruction: str, response: str) -> str:
    """The judge's user turn: the template with this instruction and response, whole and unchanged."""
    return templates.fill(template, INSTRUCTION=instruction, RESPONSE=response)


def parse_score(text: str, max_score: int = 5, truncated: bool = False) -> float | None:
    """The score that a judgement states, or None when it states none (see the module's rule).

    `truncated`: the judgement hit its token limit. Then the conclusion may be missing, so the last statement counts
    only when its line is finished (a cut "Score: 3" may have been "Score: 3 or 4") and when it is not a partial score
    such as "Relevance score: 1".
    """
    heads = list(_HEAD.finditer(text))
    if not heads or not _scale_is_ours((head := heads[-1])["scale"], max_score):
        return None
    value = _VALUE.match(text, head.end())
    if value is None or len(value["number"]) > 12:
        return None
    line, newline, _ = text[value.end() :].partition("\n")
    # A qualification of the number follows closely; the bound keeps the patterns fast on long runs of signs.
    near = _SPACES.sub(" ", line[:1000])[:LOOK_AHEAD]
    rest = near[_end(_UNIT, near) :]
    if (scale := _SCALE.match(rest)) is not None:
        if float("5" if scale["max"].lower() == "five" else scale["max"]) != max_score:
            return None
        rest = rest[scale.end() :]
        rest = rest[_end(_UNIT, rest) :]
    if _CONTINUES.match(rest):
        return None
    if "\n" in value["gap"] and (len(near) == LOOK_AHEAD or rest.strip(" *_`\"'])}>$|.\r")):
        return None  # "Score:" and then, on another line, a sentence or list item that happens to begin with a number
    if truncated and (not newline or not _SAYS_OWN_SCORE.search(_before(text, head.start()))):
        return None
    score = float(value["number"])
    return score if score <= max_score else None


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


def parse_draws(texts: Sequence[str], finish_reasons: Sequence[str], max_score: int = 5) -> tuple[float | None, ...]:
    """One score (or None) per draw; a draw whose finish reason is "length" is parsed as truncated."""
    return tuple(
        parse_score(text, max_score, truncated=reason == "length")
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
