"""docs/methods.md's tables, made of the recorded runs in docs/measurements.md; a test holds them together.

    python tools/bench/methods_page.py            prints them
    python tools/bench/methods_page.py --write    also writes them into docs/methods.md

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
TABLES = ("dev", "dev-compare")  # the recorded tables that the page has: tools/bench/methods.py, split and label
BEGIN, END = "<!-- methods begin {} -->", "<!-- methods end {} -->"
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


def recorded(text: str, table: str) -> dict[tuple[str, int], list[str]]:
    """(method, seed) -> the differences of its last model, or what stands in place of a model."""
    begin, end = f"<!-- tiny_world begin methods {table} -->", f"<!-- tiny_world end methods {table} -->"
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
    """A recorded difference in the page's units, bold where its interval does not hold 0; what is none, as it is."""
    numbers = [float(number) for number in NUMBER.findall(cell)]
    if not numbers:
        return cell
    text = points(numbers[0]) if unit == "share" else signed(numbers[0], unit)
    return f"**{text}**" if len(numbers) == 3 and (numbers[1] > 0 or numbers[2] < 0) else text


def block(found: Mapping[tuple[str, int], list[str]], table: str) -> str:
    """A table between its marks: a row for every method, in each cell the seeds in their order."""
    seeds = sorted({seed for _, seed in found})
    lines = [f"| seeds {', '.join(map(str, seeds))} | {' | '.join(FIGURES)} |", "|---" * (len(FIGURES) + 1) + "|"]
    for method, title in TITLES.items():
        if any((method, seed) in found for seed in seeds):
            cells = [
                [difference(found[method, seed][i], unit) if (method, seed) in found else "–" for seed in seeds]
                for i, unit in enumerate(FIGURES.values())
            ]
            lines.append(f"| {title} | {' | '.join(one_or_all(values) for values in cells)} |")
    return "\n".join([BEGIN.format(table), *lines, END.format(table)])


def one_or_all(values: list[str]) -> str:
    """The values; a word that all seeds share ("failed") once."""
    return values[0] if len(set(values)) == 1 and not NUMBER.search(values[0].replace("−", "-")) else ", ".join(values)


def on_page(page: str, table: str) -> slice:
    """Where the page has this table, its marks included."""
    return slice(page.index(BEGIN.format(table)), page.index(end := END.format(table)) + len(end))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="also write them into docs/methods.md")
    args = parser.parse_args()
    text, page = DOC.read_text(encoding="utf-8"), PAGE.read_text(encoding="utf-8")
    for table in TABLES:
        made = block(recorded(text, table), table)
        print(f"{made}\n")
        place = on_page(page, table)
        page = page[: place.start] + made + page[place.stop :]
    if args.write:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
