"""Judging as pure functions: the judge's input, the score parser, the mean of the draws, and the judge's health.

The parser's rule (design.md): the LAST `Score: k` of a judgement counts, tolerant of case, markdown, brackets, spacing,
"/5", "out of 5", "points" and decimals. When that last statement is not one number in 0..max_score on that scale (a
range, a choice, "8/10", negative, spelled out, cut off), the judgement is unparsable: None, never a number, and never
an earlier statement instead.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from nemo_srlm import templates
from nemo_srlm.config import JudgeSection
from nemo_srlm.records import Judgement

# What may stand around a number without changing it: markdown, quotes, brackets, table bars.
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


def too_long(num_prompt_tokens: int, max_tokens: int, max_model_len: int) -> str:
    """Why a request does not fit the context, or "". Such an item is an error with this reason; nothing is ever cut."""
    if num_prompt_tokens + max_tokens <= max_model_len:
        return ""
    return f"too_long: {num_prompt_tokens} prompt + {max_tokens} new tokens > {max_model_len}"


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
    # What qualifies a number stands close behind it; the bound keeps the patterns fast on endless runs of signs.
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
    """What stands before `position` on its line, without markdown and spaces."""
    return text[text.rfind("\n", 0, position) + 1 : position].strip(" \t*_`#>-|\r")


def _scale_is_ours(scale: str | None, max_score: int) -> bool:
    """Whether the bracket of "Score (out of 5):" names our scale, or there is none."""
    if scale is None:
        return True
    match = _OUR_SCALE.fullmatch(scale)
    return match is not None and int(match["max"]) == max_score


def parse_draws(texts: Sequence[str], finish_reasons: Sequence[str], max_score: int = 5) -> tuple[float | None, ...]:
    """One score (or None) a draw; a draw whose finish reason is "length" is parsed as truncated."""
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


def expectation(logprobs: Mapping[int, float]) -> tuple[float, float]:
    """Mean and standard deviation of the score under the log-probabilities of the digits 0..max_score, normalised."""
    top = max(logprobs.values())
    weights = {score: math.exp(value - top) for score, value in logprobs.items()}
    total = math.fsum(weights.values())
    mean = math.fsum(score * weight for score, weight in weights.items()) / total
    variance = math.fsum((score - mean) ** 2 * weight for score, weight in weights.items()) / total
    return mean, math.sqrt(max(variance, 0.0))


@dataclass
class _Tally:
    judgements: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    draws: int = 0
    parsed: int = 0
    truncated: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    total: float = 0.0
    squares: float = 0.0
    ineligible: int = 0
    draw_pairs: int = 0
    draw_pairs_equal: int = 0
    prompts: int = 0
    ties: int = 0

    def add(self, judgement: Judgement) -> None:
        self.judgements += 1
        if judgement.error:
            kind = judgement.error.partition(":")[0]
            self.errors[kind] = self.errors.get(kind, 0) + 1
            return
        self.draws += len(judgement.scores)
        self.truncated += judgement.finish_reasons.count("length")
        valid = [score for score in judgement.scores if score is not None]
        self.parsed += len(valid)
        for score in valid:
            self.total += score
            self.squares += score * score
            name = f"{math.floor(score + 0.5)}"  # shares by the nearest whole score
            self.counts[name] = self.counts.get(name, 0) + 1
        for i, a in enumerate(valid):
            for b in valid[i + 1 :]:
                self.draw_pairs += 1
                self.draw_pairs_equal += a == b


def health(judgements: Iterable[Judgement], judge: JudgeSection) -> dict[str, Any]:
    """What the judge did in a run: failures, truncation, shares of the scores, ties, spread, agreement of the draws.

    Streams; the judgements of one prompt must follow each other. Shares are None where there is nothing to divide by.
    `agreement` is the share of pairs of parsed draws (of one candidate) with equal scores; `tie_rate` is the share of
    prompts with at least two eligible candidates whose means are all equal.
    """
    tally, needed = _Tally(), required_valid(judge)
    for _, group in groupby(judgements, key=lambda judgement: judgement.prompt_id):
        means = []
        for judgement in group:
            tally.add(judgement)
            mean = aggregate(judgement.scores, needed)
            means += [] if mean is None else [mean]
            tally.ineligible += mean is None
        if len(means) >= 2:
            tally.prompts += 1
            tally.ties += min(means) == max(means)
    mean = tally.total / tally.parsed if tally.parsed else None
    variance = None if mean is None else max(tally.squares / tally.parsed - mean * mean, 0.0)
    return {
        "judgements": tally.judgements,
        "errors": dict(sorted(tally.errors.items())),
        "ineligible": tally.ineligible,
        "draws": tally.draws,
        "parse_failure": _share(tally.draws - tally.parsed, tally.draws),
        "truncated": _share(tally.truncated, tally.draws),
        "score_shares": {k: _share(n, tally.parsed) for k, n in sorted(tally.counts.items())},
        "score_mean": mean,
        "score_std": None if variance is None else math.sqrt(variance),
        "agreement": _share(tally.draw_pairs_equal, tally.draw_pairs),
        "tie_rate": _share(tally.ties, tally.prompts),
    }


def alarms(summary: Mapping[str, Any], judge: JudgeSection) -> list[str]:
    """Sentences for what is wrong with the judge: one score dominating, too many failures, nothing judged at all."""
    return list(_alarms(summary, judge))


def _alarms(summary: Mapping[str, Any], judge: JudgeSection) -> Iterator[str]:
    if not summary["draws"]:
        yield f"the judge gave no draw at all: {summary['judgements']} judgements, errors {summary['errors']}"
        return
    if summary["parse_failure"] > judge.alarm_failures:
        yield (
            f"{summary['parse_failure']:.1%} of {summary['draws']} judge draws state no score"
            f" (judge.alarm_failures {judge.alarm_failures:.0%}); judge.max_tokens cut {summary['truncated']:.1%}"
        )
    for score, share in summary["score_shares"].items():
        if share > judge.alarm_dominant:
            yield (
                f"the judge collapsed: {share:.1%} of its scores are {score}"
                f" (judge.alarm_dominant {judge.alarm_dominant:.0%})"
            )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
