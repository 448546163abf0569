"""Votes: the final answers of a prompt's responses, and the share of the responses that has the same one.

Self-Consistency Preference Optimization (ScPO, Prasad et al. 2024, arXiv 2411.04109): V(y) is the number of the k
sampled responses with the final answer of y; here it is the share V(y) / k.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal

from nemo_srlm.judge.quotes import UNSPACED
from nemo_srlm.judge.statements import half_width

Extractor = Callable[[str, str], str | None]  # (prompt, response) -> its final answer

_WORD = rf"[^\W_{UNSPACED}]"  # of scripts with blanks between words: "18個" and "_18_" have a number, "v18" and "18km" have none
_NUMBER = re.compile(
    rf"(?<![.])(?<!{_WORD})(?<!{_WORD}_)"
    r"(-?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?)"
    rf"(?!_?{_WORD})"
)
_MINUS = "\u2212"  # the sign of mathematics


def number(prompt: str, response: str) -> str | None:
    """The last number: 1,234.50 and 1234.5 are the same answer.

    Digits of any script, with English marks: a comma between thousands, a point before decimals.
    """
    found: list[str] = _NUMBER.findall(half_width(response).replace(_MINUS, "-"))
    if not found:
        return None
    value = Decimal(found[-1].replace(",", ""))
    if not value:
        return "0"
    digits = f"{value:f}"
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def boxed(prompt: str, response: str) -> str | None:
    r"""The content of the last \boxed{...}, braces inside it included; None where its braces do not close."""
    start = response.rfind("\\boxed{")
    if start < 0:
        return None
    depth, first = 0, start + len("\\boxed")
    for place in range(first, len(response)):
        depth += {"{": 1, "}": -1}.get(response[place], 0)
        if depth == 0:
            return _squeezed(response[first + 1 : place])
    return None


def last_line(prompt: str, response: str) -> str | None:
    lines = [line for line in response.splitlines() if line.strip()]
    return _squeezed(lines[-1]) if lines else None


def text(prompt: str, response: str) -> str | None:
    return _squeezed(response)


EXTRACTORS: dict[str, Extractor] = {"number": number, "boxed": boxed, "last_line": last_line, "text": text}


def _squeezed(value: str) -> str | None:
    """Without regard to case and white space; None for nothing."""
    return " ".join(value.casefold().split()) or None


def shares(answers: Sequence[str | None]) -> list[float | None]:
    """Of each response, the share of all of them with its answer; None for a response without one."""
    counts = Counter(answer for answer in answers if answer is not None)
    return [None if answer is None else counts[answer] / len(answers) for answer in answers]
