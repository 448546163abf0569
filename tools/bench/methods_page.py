"""docs/methods.md's table, made of the recorded runs in docs/measurements.md; a test holds the two together.

    python tools/bench/methods_page.py            prints it
    python tools/bench/methods_page.py --write    also writes it into docs/methods.md

The runs are recorded by tools/bench/methods.py --write.
"""

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nemo_srlm.report.numbers import points, signed
from tools.bench.readme_tables import DOC

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods.md"
BEGIN, END = "<!-- methods begin -->", "<!-- methods end -->"
TITLES = {
    "oracle": "oracle's scores (bound)", "random": "random scores (control)", "vote": "votes",
    "judge_vote": "judge and votes", "meta": "Meta-Rewarding", "self_taught": "Self-Taught Evaluators",
    "any_draw": "its control, any own draw", "consistency": "consistency", "anchored": "anchored pairs",
    "history": "pairs of all iterations", "reference_m1": "reference fixed at M1", "pairwise": "pairwise judge",
    "smoothed": "label smoothing .1", "robust": "robust loss", "ipo": "IPO", "apo_zero": "APO-zero", "simpo": "SimPO",
}  # fmt: skip
FIGURES = {  # unit as in report.numbers.signed
    "oracle score": "score", "content, points": "share", "judge, points": "share", "judge on content alone, points": "share",
}  # fmt: skip
COLUMNS = 14  # of the recorded table; the last four are the differences to the paper's method
LAST = "M3"
NUMBER = re.compile(r"[+-]\d+\.\d+")


def recorded(text: str, split: str = "dev") -> dict[tuple[str, int], list[str]]:
    """(method, seed) -> the differences of its last model, or what stands in place of a model."""
    begin, end = f"<!-- tiny_world begin methods {split} -->", f"<!-- tiny_world end methods {split} -->"
    found = {}
    for line in text.partition(begin)[2].partition(end)[0].splitlines():
        cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
        if len(cells) != COLUMNS or not cells[0].isdigit() or cells[1] not in TITLES:
            continue
        if cells[2] == LAST:
            found[cells[1], int(cells[0])] = cells[-len(FIGURES) :]
        elif "M" not in cells[2][:1]:
            found[cells[1], int(cells[0])] = [cells[2].partition(":")[0]] * len(FIGURES)
    return found


def difference(cell: str, unit: str) -> str:
    """A recorded difference and its interval in the page's units; what is none, as it is."""
    numbers = [float(number) for number in NUMBER.findall(cell)]
    texts = [points(number) if unit == "share" else signed(number, unit) for number in numbers]
    return f"{texts[0]} [{', '.join(texts[1:])}]" if texts else cell


def block(found: Mapping[tuple[str, int], list[str]]) -> str:
    """The table between its marks: a column for every figure and seed."""
    seeds = sorted({seed for _, seed in found})
    head = [f"{figure}, seed {seed}" for figure in FIGURES for seed in seeds]
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for method, title in TITLES.items():
        if any((method, seed) in found for seed in seeds):
            cells = [
                difference(found[method, seed][i], unit) if (method, seed) in found else "not run"
                for i, unit in enumerate(FIGURES.values())
                for seed in seeds
            ]
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join([BEGIN, *lines, END])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="also write it into docs/methods.md")
    args = parser.parse_args()
    made = block(recorded(DOC.read_text(encoding="utf-8")))
    print(made)
    if args.write:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(page[: page.index(BEGIN)] + made + page[page.index(END) + len(END) :], encoding="utf-8")


if __name__ == "__main__":
    main()
