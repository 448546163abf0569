"""Numbers as text: the filters of the page and the cells of the plain-text report. None becomes a dash."""

import re
import time
from typing import Any

METRIC_NAMES = {
    "pairwise_accuracy": "pairwise accuracy",
    "pairwise_strict": "pairwise, ties wrong",
    "five_best": "5-best",
    "exact_match": "exact match",
    "spearman": "Spearman",
    "kendall": "Kendall τ",
}
CORRELATIONS = ("spearman", "kendall")
DIGITS = {"score": 2, "correlation": 3, "grade": 2, "words": 1, "nats": 4}  # behind the point
MINUS = "\N{MINUS SIGN}"


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}%"


def decimal(value: float | None, digits: int = 2) -> str:
    """`-0.004` with two digits is `0.00`, not `-0.00`."""
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", MINUS)


def points(value: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return f"{round(100 * value, 1) + 0.0:+.1f}".replace("-", MINUS)


def signed(value: float, unit: str) -> str:
    """A difference of a figure; `unit` as in units.Figure."""
    if unit == "share":
        return f"{points(value)} pts"
    digits = DIGITS[unit]
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", MINUS)


def interval(found: dict[str, Any], unit: str) -> str:
    """`[+0.76, +0.94]` of a difference with "low" and "high"; empty where it is not known."""
    ends = [found["low"], found["high"]]
    if None in ends:
        return ""
    texts = [signed(end, unit).removesuffix(" pts") for end in ends]
    # an end that rounds to 0 keeps its sign: it says on which side of 0 the interval ends
    return f"[{', '.join(MINUS + text[1:] if end < 0 else text for end, text in zip(ends, texts, strict=True))}]"


def unbroken(text: str) -> str:
    """No line of a page ends inside `+0.7 pts [−0.7, +2.1]`."""
    return re.sub(r"(\S+ (pts )?)?\[[^]]*\]", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


def axis_value(value: float, unit: str) -> str:
    return percent(value) if unit == "share" else decimal(value, DIGITS[unit])


def estimate(found: dict[str, Any] | None, unit: str) -> str:
    """`3.75 [3.63, 3.87]`, in percent for shares; a dash for None."""
    if found is None:
        return "–"
    value = axis_value(found["value"], unit)
    if found["low"] is None or found["high"] is None:
        return value
    return f"{value} [{axis_value(found['low'], unit)}, {axis_value(found['high'], unit)}]"


def metric_value(name: str, value: float | None) -> str:
    return decimal(value, 3) if name in CORRELATIONS else percent(value)


def count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def compact(value: float | None) -> str:
    """`1234567` -> `1.2M`."""
    if value is None:
        return "–"
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"


def moment(stamp: float | None) -> str:
    return "–" if stamp is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(stamp)) + " UTC"


def words(name: str) -> str:
    return name.replace("_", " ")
