"""Numbers as text: the filters of the page and the cells of the plain-text report. None becomes a dash."""

import time

METRIC_NAMES = {
    "pairwise_accuracy": "pairwise accuracy",
    "pairwise_strict": "pairwise, ties wrong",
    "five_best": "5-best",
    "exact_match": "exact match",
    "spearman": "Spearman",
    "kendall": "Kendall τ",
}
CORRELATIONS = ("spearman", "kendall")
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
    """A difference on an axis of the summary."""
    if unit == "share":
        return f"{points(value)} pts"
    return f"{value:+.2f}".replace("-", MINUS) if unit == "score" else f"{value:+.1f}".replace("-", MINUS)


def axis_value(value: float, unit: str) -> str:
    return percent(value) if unit == "share" else decimal(value, 2 if unit == "score" else 1)


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
