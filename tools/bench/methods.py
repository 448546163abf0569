"""Runs the methods of docs/methods.md on the tiny world, from the same M0, M1, prompts and first judgements: their table.

    python tools/bench/methods.py                              3 seeds, the development split
    python tools/bench/methods.py --methods vote meta --seeds 0
    python tools/bench/methods.py --write                      also writes the table to docs/measurements.md
    python tools/bench/methods.py --tabulate                   runs nothing: the table of the runs that are there
    python tools/bench/methods.py --label compare -- eft.num_comparisons=1500 ...     other settings: a table of its own

Every method has the paper's run of its seed as run.reuse, so it repeats only what it changes; the paper's has the run of
tools/bench/tiny_world.py where there is one. A method whose run fails has a row with the reason: nothing is dropped because
it failed. Settings behind `--` are for every run (another world, sizes).
"Content" is the share of responses whose content is entirely right. The judge is measured on all pairs of held-out replies, and
on those that differ in content alone. Differences to the paper's method are of the last model, paired by question.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nemo_srlm.config.compose import RESOLVED_CONFIG
from nemo_srlm.core import manifest
from nemo_srlm.core.control import read_error
from nemo_srlm.core.pipeline import model_name
from nemo_srlm.evaluate.statistics import Estimate, Units
from nemo_srlm.report import costs, units
from nemo_srlm.report.run_files import RunFiles
from nemo_srlm.report.units import Measured
from tools.bench import content_alone, tiny_world

ROOT = Path(__file__).resolve().parents[2]
ANSWER = f"pairs.answer={ROOT}/tools/bench/tiny_answers.py:content"
PAPER = "paper"
METHODS: dict[str, list[str]] = {  # name in the table -> settings
    PAPER: [],
    "random": ["run.arm=random"],
    "oracle": ["run.arm=oracle"],
    "vote": ["pairs.score=vote", ANSWER, "pairs.weight=margin"],
    "judge_vote": ["pairs.score=judge_vote", ANSWER],
    "meta": ["judge_training.method=meta"],
    "self_taught": ["judge_training.method=self_taught"],
    "any_draw": ["judge_training.method=any_draw"],
    "consistency": ["pairs.consistency=mean"],
    "anchored": ["pairs.rejected_from=m1"],
    "history": ["dpo.pairs_from=all"],
    "reference_m1": ["dpo.reference=m1"],
    "pairwise": ["judge.shape=pairwise", "judge.equal_texts=each"],
    "smoothed": ["dpo.label_smoothing=0.1"],
    "robust": ["dpo.loss=robust", "dpo.label_smoothing=0.1"],
    "ipo": ["dpo.loss=ipo"],
    "apo_zero": ["dpo.loss=apo_zero"],
    "simpo": ["dpo.loss=simpo", "dpo.beta=2"],
}


@dataclass(frozen=True)
class Row:
    """One model of a run. `units`: of the paired figures, by question."""

    model: str
    pairs: str
    words: float
    units: dict[str, Units]


SHOWN = {name: units.FIGURES[name] for name in ("oracle", "all_correct", "pairwise_accuracy")} | {
    "alone": content_alone.FIGURE
}


def units_of(files: RunFiles, measured: Measured, iteration: int) -> dict[str, Units]:
    """Of the model that `iteration` ends with: oracle score, content, and the judge on all pairs and on content alone."""
    model = model_name(iteration)
    found = {name: measured[name][model] for name in SHOWN if name in measured}
    return {**found, "alone": content_alone.judged(files, iteration)}


def row_of(files: RunFiles, measured: Measured, t: int) -> Row:
    """The model that iteration t ends with; M1 for 0."""
    words = tiny_world.metrics(files.dir, t, "eval_responses")["drift"]["words"]
    count = str(tiny_world.metrics(files.dir, t, "pairs")["pairs"]) if t else ""
    judged = manifest.read(files.dir / f"iter{t}" / "judge_pairs")
    return Row(
        model_name(t), count + (f" + {judged.metrics['pairs']}" if judged else ""), words, units_of(files, measured, t)
    )


def rows_of(run_dir: Path) -> list[Row]:
    """M1, M2, ..."""
    files = RunFiles(run_dir)
    measured = units.read(files)
    return [row_of(files, measured, t) for t in range(files.cfg.iterations + 1)]


def minutes(run_dir: Path) -> float:
    """Of the stages that the run executed itself."""
    return sum(row["seconds"] for row in costs.read(RunFiles(run_dir)) if not row["reused"]) / 60


def shown(found: Estimate | None, signed: bool = False) -> str:
    if found is None:
        return "-"
    sign = "+" if signed else ""
    bounds = "" if found.low is None or found.high is None else f" [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"
    return f"{found.value:{sign}.3f}{bounds}"


def cells(seed: int, method: str, row: Row, spent: str, base: Row | None) -> str:
    means = [shown(figure.mean(row.units[name])) for name, figure in SHOWN.items()]
    against = ["-"] * len(SHOWN)
    if base is not None:
        against = [
            shown(figure.difference(base.units[name], row.units[name]), signed=True) for name, figure in SHOWN.items()
        ]
    return (
        "| " + " | ".join([str(seed), method, row.model, row.pairs, f"{row.words:.1f}", spent, *means, *against]) + " |"
    )


def run(name: str, overrides: list[str]) -> tuple[Path, str]:
    """Runs it, or what remains of it. Returns its directory and, where it failed, the last line of its message."""
    print(f"== {name}: {' '.join(overrides)}", flush=True)
    command = [sys.executable, "-m", "nemo_srlm.cli", "run", "--config-name", "tiny", f"run.name={name}", *overrides]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    reasons = [
        line for line in done.stderr.splitlines() if re.search(r"failed:|expected", line)
    ] or done.stderr.splitlines()
    return ROOT / "runs" / name, "" if not done.returncode else f"failed: {(reasons or ['no message'])[-1][:200]}"


Start = Callable[[str, list[str]], tuple[Path, str]]  # `run`, or `stopped`
HEAD = (
    "| seed | method | model | pairs | words | minutes | oracle score | content | judge | judge, content alone "
    "| oracle - paper | content - paper | judge - paper | content alone - paper |\n" + "|---" * 14 + "|"
)


def stopped(name: str, _overrides: list[str]) -> tuple[Path, str]:
    """What `run` returns, where nothing may be run: a run without its last report is a row that says so."""
    run_dir = ROOT / "runs" / name
    if not (run_dir / RESOLVED_CONFIG).exists():
        return run_dir, "not run"
    last = RunFiles(run_dir).cfg.iterations
    if manifest.read(run_dir / f"iter{last}" / "report") is not None:
        return run_dir, ""
    reasons = [reason for stage in sorted(run_dir.glob("iter*/*")) if (reason := read_error(stage))]
    where = f"{run_dir.resolve()}/"
    return run_dir, f"failed: {reasons[0].replace(where, '')[:200]}" if reasons else "not run to its end"


def table(
    seeds: Sequence[int], methods: Sequence[str], common: Sequence[str], split: str, start: Start = run, label: str = ""
) -> tuple[list[str], list[Path]]:
    """The lines of the table, and the directories of the runs that are in it."""
    lines, run_dirs = [HEAD], []
    for seed in seeds:
        base: list[Row] = []
        settings = [f"run.seed={seed}", f"world.seed={seed}", f"world.split={split}", *common]
        name = f"methods-{split}{label}-{seed}"
        paper = f"{name}-{PAPER}"
        for method in dict.fromkeys([PAPER, *methods]):
            reuse = tiny_world.shared(f"bench-{split}-{seed}" if method == PAPER else paper)
            run_dir, failed = start(f"{name}-{method}", [*settings, *METHODS[method], *reuse])
            if failed:
                lines.append(f"| {seed} | {method} | {failed.replace('|', '/')} |" + " |" * 11)
                continue
            run_dirs.append(run_dir)
            m1, *rows = rows_of(run_dir)
            if method == PAPER:
                base = rows
                lines.append(cells(seed, "-", m1, "", None))
            for i, row in enumerate(rows):
                last = i == len(rows) - 1
                against = base[i] if last and base and method != PAPER else None
                lines.append(cells(seed, method, row, f"{minutes(run_dir):.1f}" if last else "", against))
    return lines, run_dirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", choices=["dev", "test"], default="dev")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD")
    parser.add_argument("--write", action="store_true", help="also write the table to docs/measurements.md")
    parser.add_argument(
        "--tabulate", action="store_true", help="run nothing; a row for each run, also of one that is not there"
    )
    parser.add_argument(
        "--label", default="", metavar="WORD", help="of the runs' names and of the record: beside other settings"
    )
    parser.add_argument("overrides", nargs="*", help="more settings for every run, key=value")
    args = parser.parse_args()
    label = f"-{args.label}" if args.label else ""
    lines, run_dirs = table(
        args.seeds, args.methods, args.overrides, args.split, stopped if args.tabulate else run, label
    )
    made = tiny_world.commits(run_dirs)
    some = "" if args.methods == list(METHODS) else f"--methods {' '.join(args.methods)} "
    own = f"--label {args.label} -- {' '.join(args.overrides)}" if label else " ".join(args.overrides)
    words = f"--seeds {' '.join(map(str, args.seeds))} --split {args.split} {some}{own}".strip()
    where = (
        f"`tools/bench/methods.py {words}`; {time.strftime('%Y-%m-%d')}, {tiny_world.cpu()}, commit {', '.join(made)}."
    )
    title = f"## Methods on the tiny world, {args.split} split" + (f": {args.label}" if label else "")
    text = "\n".join([title, "", where, "", *lines])
    print(text)
    if args.write:
        if len(made) != 1 or "dirty" in made[0] or made == ["unknown"]:
            sys.exit(f"not written: the runs are of {', '.join(made)}; a recorded table is of one commit")
        tiny_world.write_document(f"methods {args.split}{label}", text)


if __name__ == "__main__":
    main()
