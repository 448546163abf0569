"""Small SVG charts as strings. Colours and fonts come from the page's style sheet, which has a light and a dark theme.

A chart is 340 units wide, one CSS pixel per unit on a phone: charts are laid out side by side and never scaled down, so
text stays readable. Every mark has a <title>, which browsers show on hover. A screen reader is given the chart's name and
its numbers as a description (<desc>); the same numbers are a table (Chart.rows), for whoever has no pointer.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 340, 222
LEFT, RIGHT, TOP, BOTTOM = (
    40,
    12,
    32,
    42,
)  # above: the name of the y axis; below: tick labels and the name of the x axis
TICKS = HEIGHT - BOTTOM + 16  # the base line of the x axis' labels
NUM_TICKS = 4
Format = Callable[[float], str]


@dataclass(frozen=True)
class Point:
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Axes:
    """What the axes show, with the unit where there is one."""

    x: str
    y: str


@dataclass(frozen=True)
class Chart:
    """A drawn chart, and its numbers as a table."""

    svg: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Series:
    """`style` is a class of the style sheet: s0, s1, ... for runs, `paper` for the published numbers."""

    name: str
    style: str
    points: Mapping[str, Point]  # by x label; a missing label is a gap


def nice_ticks(low: float, high: float) -> list[float]:
    """About NUM_TICKS round numbers that cover [low, high]."""
    if not high > low:
        half = abs(low) * 0.1 or 1.0
        low, high = low - half, high + half
    raw = (high - low) / NUM_TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_text(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.10g}"


class _Frame:
    """Maps data to the page and draws the grid."""

    def __init__(self, low: float, high: float, text: Format = tick_text) -> None:
        self.ticks = nice_ticks(low, high)
        self.low, self.high = self.ticks[0], self.ticks[-1]
        self.text = text

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - min(1.0, max(0.0, share)) * (HEIGHT - TOP - BOTTOM)

    def grid(self) -> list[str]:
        out = []
        for value in self.ticks:
            y = self.y(value)
            out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            out.append(
                f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{self.text(value)}</text>'
            )
        return out


def _chart(label: str, axes: Axes, parts: Sequence[str], header: list[str], rows: list[list[str]]) -> Chart:
    said = ". ".join(
        f"{row[0]}: {', '.join(f'{name} {cell}' for name, cell in zip(header[1:], row[1:], strict=True) if cell)}"
        for row in rows
    )
    words = f"{axes.y[:1].upper()}{axes.y[1:]} by {axes.x}. {said}."
    names = (
        f'<text class="axis" x="2" y="10">{escape(axes.y)}</text>'
        f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{escape(axes.x)}</text>'
    )
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label, quote=True)}">'
        f"<desc>{escape(words)}</desc>{names}{''.join(parts)}</svg>"
    )
    return Chart(svg, header, rows)


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def dots(
    label: str, axes: Axes, x_labels: Sequence[str], series: Sequence[Series], value_text: Format, tick: Format
) -> Chart | None:
    """A dot with its interval per x label, joined within a series. One series alone also gets its values as text.

    None where there is nothing to show.
    """
    shown = [p for s in series for p in s.points.values()]
    if not shown:
        return None
    low = min(p.value if p.low is None else p.low for p in shown)
    high = max(p.value if p.high is None else p.high for p in shown)
    pad = (high - low) * 0.08 or abs(high) * 0.1 or 0.5
    frame = _Frame(max(0.0, low - pad) if low >= 0 else low - pad, high + pad, tick)
    step = (WIDTH - LEFT - RIGHT) / len(x_labels)
    own = [s for s in series if s.style != "paper"]
    parts = frame.grid()
    parts += [
        f'<text class="tick" x="{LEFT + step * (i + 0.5):.1f}" y="{TICKS}" text-anchor="middle">{escape(x)}</text>'
        for i, x in enumerate(x_labels)
    ]
    with_paper = len(own) < len(series)
    texts = []
    for k, s in sorted(enumerate(series), key=lambda item: item[1].style != "paper"):  # the paper's first, beneath
        shift = (k - (len(series) - 1) / 2) * min(14.0, step * 0.6 / len(series))
        places = [(LEFT + step * (i + 0.5) + shift, s.points[x], x) for i, x in enumerate(x_labels) if x in s.points]
        path = " ".join(f"{x:.1f},{frame.y(p.value):.1f}" for x, p, _ in places)
        parts.append(f'<g class="{s.style}"><polyline class="join" points="{path}"/>')
        for x, p, name in places:
            y = frame.y(p.value)
            if p.low is not None and p.high is not None:
                a, b = frame.y(p.low), frame.y(p.high)
                parts.append(f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{a:.1f}" y2="{b:.1f}"/>')
            words = f"{s.name}, {name}: {_point_text(p, value_text)}"
            parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4">{_title(words)}</circle>')
            if len(own) == 1 and s.style != "paper":
                shown_as = value_text(p.value)
                at, anchor = (x - 7, "end") if with_paper else (x + 7, "start")
                if with_paper:
                    at = max(at, LEFT + 7 * len(shown_as))  # not over the numbers of the axis
                texts.append(
                    f'<text class="value" x="{at:.1f}" y="{y - 5:.1f}" text-anchor="{anchor}">{shown_as}</text>'
                )
        parts.append("</g>")
    parts += texts
    rows = [
        [s.name, *(_point_text(s.points[x], value_text) if x in s.points else "" for x in x_labels)] for s in series
    ]
    return _chart(label, axes, parts, ["", *x_labels], rows)


def _point_text(point: Point, value_text: Format) -> str:
    if point.low is None or point.high is None:
        return value_text(point.value)
    return f"{value_text(point.value)} ({value_text(point.low)} to {value_text(point.high)})"


@dataclass(frozen=True)
class Curve:
    """One line over training steps; a None is a gap. `style` may name several classes ("s1 dashed")."""

    name: str
    style: str
    steps: Sequence[float]
    values: Sequence[float | None]


def lines(label: str, axes: Axes, curves: Sequence[Curve]) -> Chart | None:
    """Curves over training steps, which may have different lengths. None where there is nothing to show."""
    shown = [v for c in curves for v in c.values if v is not None]
    if not shown:
        return None
    frame = _Frame(min(shown), max(shown))
    first, last = min(c.steps[0] for c in curves), max(c.steps[-1] for c in curves)
    width = WIDTH - LEFT - RIGHT

    def x_of(step: float) -> float:
        return LEFT + (width * (step - first) / (last - first) if last > first else width / 2)

    parts = frame.grid()
    for value in nice_ticks(first, last):
        if first <= value <= last and value == int(value):  # steps are whole
            parts.append(
                f'<text class="tick" x="{x_of(value):.1f}" y="{TICKS}" text-anchor="middle">{tick_text(value)}</text>'
            )
    rows = []
    for curve in curves:
        path, pen_down = [], False
        for step, y in zip(curve.steps, curve.values, strict=True):
            if y is None:
                pen_down = False
                continue
            path.append(f"{'L' if pen_down else 'M'}{x_of(step):.1f} {frame.y(y):.1f}")
            pen_down = True
        known = [v for v in curve.values if v is not None]
        words = f"{curve.name}: {known[-1]:.4g} at the end" if known else curve.name
        parts.append(f'<g class="{curve.style}"><path class="curve" d="{" ".join(path)}">{_title(words)}</path></g>')
        if known:
            rows.append([curve.name, *(f"{v:.4g}" for v in (known[0], min(known), max(known), known[-1]))])
    return _chart(label, axes, parts, ["", "first", "lowest", "highest", "last"], rows)


def bars(label: str, axes: Axes, counts: Mapping[str, int]) -> Chart | None:
    """Vertical bars of shares, one per key, with the share as text above and the count on hover. None without a count."""
    total = sum(counts.values())
    if not total:
        return None
    shares = {k: n / total for k, n in counts.items()}
    frame = _Frame(0.0, max(shares.values()) * 1.08, lambda v: f"{v:.0%}")
    step = (WIDTH - LEFT - RIGHT) / len(counts)
    base = HEIGHT - BOTTOM
    parts = frame.grid()
    for i, (key, share) in enumerate(shares.items()):
        x, y = LEFT + step * (i + 0.14), frame.y(share)
        middle = LEFT + step * (i + 0.5)
        parts.append(
            f'<g class="s0"><rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{step * 0.72:.1f}" '
            f'height="{max(0.0, base - y):.1f}" rx="2">{_title(f"{key}: {counts[key]:,} of {total:,}")}</rect></g>'
        )
        if share > 0:
            words = f"{share:.0%}" if share >= 0.005 else "<1%"
            parts.append(
                f'<text class="value" x="{middle:.1f}" y="{y - 4:.1f}" text-anchor="middle">{escape(words)}</text>'
            )
        parts.append(f'<text class="tick" x="{middle:.1f}" y="{TICKS}" text-anchor="middle">{escape(key)}</text>')
    rows = [[key, f"{share:.1%}", f"{counts[key]:,}"] for key, share in shares.items()]
    return _chart(label, axes, parts, [axes.x, axes.y, "number"], rows)
