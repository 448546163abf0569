"""Measures the models of a run as judges of ranked replies: one half of a file trains the judge, the other half measures it.

    python tools/bench/real_judge.py FILE [--until M1] [--name NAME] [key=value ...]

FILE: Open Assistant trees (*.trees.jsonl, maybe .gz) with ranked replies. An instruction belongs to a half by its hash. The
run is `nemo-srlm run --config-name smollm2_135m` with the first half as seed data (EFT examples from the ranks) and the second
half as eval.preferences, so M0, M1, M2 and M3 judge the same replies. Beside them stands "longer is better", which needs
no model. It uses the model directory of tools/smollm2.py, and settings as in `nemo-srlm run`.

Accuracy: the share of pairs with different ranks that a judge orders as the ranks do; a tie counts half. Intervals are
95% over instructions, and paired for differences, because all judges see the same pairs (evaluate/statistics.py).
"""

import argparse
import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nemo_srlm.core.files import read_json_lines, read_records
from nemo_srlm.core.records import Judgement, RankedReply
from nemo_srlm.data.oasst import read_first_turns
from nemo_srlm.data.splits import instruction_id
from nemo_srlm.errors import UserError
from nemo_srlm.evaluate import statistics
from tools import smollm2

ROOT = Path(__file__).resolve().parents[2]
STAGES = {"M0": "iter0/eval_preferences_base", "M1": "iter0/eval_preferences"} | {
    f"M{t + 1}": f"iter{t}/eval_preferences" for t in range(1, 9)
}


def halves(file: Path, folder: Path, keep: int = 0) -> tuple[Path, Path]:
    """Writes the file's trees as train.trees.jsonl and held_out.trees.jsonl, of at most `keep` trees each (0: all)."""
    sides: tuple[list[str], list[str]] = ([], [])
    for _, tree in read_json_lines(file):
        key = hashlib.sha256(f"half {instruction_id(tree['prompt']['text'])}".encode()).digest()
        sides[key[0] % 2].append(json.dumps(tree, ensure_ascii=False) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "train.trees.jsonl", folder / "held_out.trees.jsonl"
    for path, side in zip(paths, sides, strict=True):
        path.write_text("".join(side[: keep or None]), encoding="utf-8")
    return paths


def counts(groups: Sequence[Sequence[RankedReply]], score: Callable[[RankedReply], float | None]) -> np.ndarray:
    """[I, 2]: pairs of each instruction that `score` orders as the ranks do (ties count half), and all its pairs."""
    table = np.zeros((len(groups), 2))
    for row, group in zip(table, groups, strict=True):
        for a, b in combinations(group, 2):
            if a.rank == b.rank:
                continue
            first, second = score(a), score(b)
            row[1] += 1
            if first is None or second is None or first == second:
                row[0] += 0.5  # no score: nothing is known, as with a tie
            else:
                row[0] += (first > second) == (a.rank < b.rank)
    return table


def by_instruction(replies: Sequence[RankedReply]) -> list[list[RankedReply]]:
    groups: dict[str, list[RankedReply]] = {}
    for reply in replies:
        groups.setdefault(reply.instruction_id, []).append(reply)
    return list(groups.values())


def table(run_dir: Path) -> list[str]:
    """A Markdown table of every judge of a finished run."""
    found = {name: run_dir / stage for name, stage in STAGES.items() if (run_dir / stage / "manifest.json").exists()}
    if not found:
        sys.exit(f"{run_dir}: no evaluation is done")
    groups = by_instruction(list(read_records(next(iter(found.values())) / "ranked.jsonl", RankedReply)))
    judges = {"longer is better": counts(groups, lambda reply: float(len(reply.response)))}
    for name, directory in found.items():
        scores = {
            j.id: (j.scores[0] if j.scores else None) for j in read_records(directory / "judgements.jsonl", Judgement)
        }
        judges[name] = counts(groups, lambda reply, scores=scores: scores[reply.id])
    units = {
        name: {str(i): (float(right), float(all_)) for i, (right, all_) in enumerate(own)} for name, own in judges.items()
    }  # fmt: skip

    def interval(found: statistics.Estimate | None) -> str:
        return (
            "-"
            if found is None or found.low is None or found.high is None
            else f"{100 * found.low:.1f} to {100 * found.high:.1f}"
        )

    def against(name: str, other: str) -> str:
        if other not in judges or name == other:
            return ""
        found = statistics.difference(units[other], units[name], span=1.0)
        return "-" if found is None else f"{100 * found.value:+.1f} ({interval(found)})"

    pairs = int(next(iter(judges.values()))[:, 1].sum())
    lines = [
        f"{len(groups)} held-out instructions, {pairs} pairs; in points, 95% intervals.", "",
        "| judge | pairs ordered right, % | against M0 | against longer is better |", "|---|---|---|---|",
    ]  # fmt: skip
    for name in judges:
        right = statistics.mean(units[name], 0.0, 1.0)
        assert right is not None
        row = f"{100 * right.value:.1f} ({interval(right)})", against(name, "M0"), against(name, "longer is better")
        lines.append(f"| {name} | {' | '.join(row)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "configs" / "data" / "everyday.trees.jsonl")
    parser.add_argument("--name", default="bench-judge", help="of the run")
    parser.add_argument("--until", default="M3", choices=["M1", "M2", "M3"], help="the last model that is trained")
    parser.add_argument("--model", type=Path, default=smollm2.DIRECTORY, help="HF directory")
    parser.add_argument("--quick", action="store_true", help="few instructions and tokens, one iteration: a smoke test")
    parser.add_argument("overrides", nargs="*", help="settings, key=value")
    args = parser.parse_intermixed_args()
    quick = (
        ["dpo.num_validation=0", "prompts.num_prompts=4", "prompts.round_size=16", "candidates.max_tokens=16"]
        if args.quick
        else []
    )
    try:
        if args.model == smollm2.DIRECTORY and not smollm2.is_complete(args.model):
            smollm2.make(args.model)
        list(read_first_turns([args.file], "en", Counter()))  # a bad line is named before anything is written
        train, held_out = halves(args.file, ROOT / "runs" / f"{args.name}-data", keep=6 if args.quick else 0)
    except UserError as error:
        print(f"{'skipped: ' if args.quick else ''}{error}", file=sys.stderr)
        return 0 if args.quick else 2  # `make bench` goes on where there is no network
    iterations = 1 if args.quick else int(args.until[1]) - 1
    command = [
        sys.executable, "-m", "nemo_srlm.cli", "run", "--config-name", "smollm2_135m", f"run.name={args.name}",
        f"import_hf.path={args.model}", f"seed.files=[{train}]", f"eval.preferences=[{held_out}]",
        "eval.preferences_max=0", f"iterations={iterations}", *quick, *args.overrides,
    ]  # fmt: skip
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        return 1
    print("\n".join(table(ROOT / "runs" / args.name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
