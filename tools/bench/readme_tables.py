"""README's tables of the tiny world, made of the recorded runs in docs/measurements.md; a test holds the two together.

    python tools/bench/readme_tables.py            prints them
    python tools/bench/readme_tables.py --write    also writes them into README.md

The runs are recorded by tools/bench/tiny_world.py --write, which names command, commit, date and CPU.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_srlm.evaluate.statistics import Estimate, of_values
from nemo_srlm.report.numbers import MINUS, decimal, points

ROOT = Path(__file__).resolve().parents[2]
README, DOC = ROOT / "README.md", ROOT / "docs" / "measurements.md"
BEGIN, END = "<!-- tiny_world begin -->", "<!-- tiny_world end -->"
MODELS = {
    "SFT baseline": "SFT baseline", "M1": "M1", "M2": "M2", "M3": "M3",
    "random M2": "control (judge scores permuted within a prompt), M2", "random M3": "control, M3",
}  # fmt: skip
FIGURES = ("mean", "full", "content", "judge")


@dataclass(frozen=True)
class Row:
    """One model of one seed, as recorded."""

    mean: float
    full: float
    content: float  # share of responses whose content is entirely right
    judge: float | None


def recorded(text: str, split: str = "test") -> dict[tuple[int, str], Row]:
    """(seed, model) -> the row of the block of this split."""
    block = text.partition(f"<!-- tiny_world begin {split} -->")[2].partition(f"<!-- tiny_world end {split} -->")[0]
    found = {}
    for line in block.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7 and cells[0].isdigit():
            judge = None if cells[6] == "-" else float(cells[6])
            found[int(cells[0]), cells[1]] = Row(float(cells[2].split()[0]), float(cells[3]), float(cells[5]), judge)
    return found


def models_table(rows: dict[tuple[int, str], Row]) -> list[str]:
    """Means over the seeds that have the model."""
    lines = [
        "| model | seeds | oracle score (0 to 5) | full marks | content all right, whatever the style | judge: pairs right |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, title in MODELS.items():
        own = [row for (_, model), row in rows.items() if model == name]
        judges = [row.judge for row in own if row.judge is not None]
        cells = [decimal(mean([r.mean for r in own])), f"{100 * mean([r.full for r in own]):.0f}%",
                 f"{100 * mean([r.content for r in own]):.1f}%", f"{100 * mean(judges):.1f}%" if judges else "-"]  # fmt: skip
        lines.append(f"| {title} | {len(own)} | {' | '.join(cells)} |")
    return lines


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def changes(rows: dict[tuple[int, str], Row], figure: str, first: str, last: str) -> list[float]:
    """The change of a figure on every seed that has both models."""
    found = []
    for seed in sorted({seed for seed, _ in rows}):
        if (seed, first) in rows and (seed, last) in rows:
            a, b = (getattr(rows[seed, model], figure) for model in (first, last))
            found.append(b - a)
    return found


def changes_table(rows: dict[tuple[int, str], Row]) -> list[str]:
    """M1 to M3 over the seeds: with the model's own judgements, with permuted scores, and the one minus the other at M3."""
    lines = [
        "| change | seeds | oracle score | full marks, points | content all right, points | as a judge, points |",
        "|---|---|---|---|---|---|",
    ]
    for title, first, last in (
        ("M1 to M2", "M1", "M2"), ("M1 to M3", "M1", "M3"), ("M1 to the control’s M3", "M1", "random M3"),
        ("the control’s M3 to M3", "random M3", "M3"),
    ):  # fmt: skip
        each = {figure: changes(rows, figure, first, last) for figure in FIGURES}
        cells = [shown(of_values(values), figure) for figure, values in each.items()]
        lines.append(f"| {title} | {len(each['mean'])} | {' | '.join(cells)} |")
    return lines


def shown(found: Estimate | None, figure: str) -> str:
    """`+0.78 [+0.65, +0.92]`."""
    assert found is not None

    def text(value: float) -> str:
        return f"{value:+.2f}".replace("-", MINUS) if figure == "mean" else points(value)

    if found.low is None or found.high is None:
        return text(found.value)
    return f"{text(found.value)} [{text(found.low)}, {text(found.high)}]"


def block(text: str) -> str:
    """What stands in README between the marks."""
    rows = recorded(text)
    return "\n".join([BEGIN, *models_table(rows), "", "Mean change with Student's 95% interval over seeds:", "",
                      *changes_table(rows), END])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write them into README.md")
    args = parser.parse_args()
    made = block(DOC.read_text(encoding="utf-8"))
    print(made)
    if args.write:
        old = README.read_text(encoding="utf-8")
        pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.S)
        README.write_text(pattern.sub(lambda _: made, old), encoding="utf-8")


if __name__ == "__main__":
    main()
