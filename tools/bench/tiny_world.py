"""Measures whether the loop improves the tiny model: runs seeds x arms on the tiny world and prints a table.

    python tools/bench/tiny_world.py --seeds 0 1 2 --split dev         the acceptance criteria
    python tools/bench/tiny_world.py --seeds 0 1 2 3 4 --split test    the figures of README and docs, once
    python tools/bench/tiny_world.py --quick                           one seed; existing runs are reused

Every seed has its own world (web text, seed data, held-out prompts; one grammar and one oracle), M0 and sampling.
The arms of a seed share everything up to the first judge scores through `run.reuse` (equal fingerprints); the two splits
share every model. Arm "random" permutes the scores among the candidates of a prompt; arm "oracle" replaces them by the
oracle's scores.
Prints the acceptance criteria (per seed), the goals, each run's changes paired by question, those of the content by family
and those of the judge on replies that differ in content alone; `--write` also writes all of it to docs/measurements.md, with
CPU, commit and date, and refuses runs of more than one commit or of a changed tree.
tools/bench/readme_tables.py makes README's tables of it.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nemo_srlm.core import manifest
from nemo_srlm.core.pipeline import model_name
from nemo_srlm.evaluate.statistics import Units, of_values
from nemo_srlm.report import families, units
from nemo_srlm.report.numbers import interval, signed
from nemo_srlm.report.run_files import RunFiles
from nemo_srlm.report.units import FIGURES, Figure
from nemo_srlm.tiny_world.questions import FAMILIES
from tools.bench import content_alone

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs" / "measurements.md"
SHOWN = ("oracle", "all_correct", "correct", "pairwise_accuracy")  # changes that are recorded with their intervals
BEGIN, END = "<!-- tiny_world begin {split} -->", "<!-- tiny_world end {split} -->"


@dataclass(frozen=True)
class Model:
    """One model's metrics on held-out prompts."""

    mean: float  # oracle score, 0 to 5
    full: float  # share of responses with the full score
    correct: float  # mean share of the response's content that is correct, regardless of style
    all_correct: float  # share of responses whose content is entirely correct
    interval: str  # of the mean, over questions
    judge: float | None  # pairwise accuracy as a judge, ties count half


def models(run_dir: Path) -> dict[str, Model]:
    """Every evaluated model of a run."""
    measured, found = units.read(RunFiles(run_dir)), {}
    for name, iteration, suffix in (("baseline", 0, "_baseline"), *((model_name(t), t, "") for t in range(3))):
        oracle = metrics(run_dir, iteration, f"eval_oracle{suffix}")
        # None: no judgement parsed
        accuracy = metrics(run_dir, iteration, f"eval_reward{suffix}")["pairwise_accuracy"]
        estimate = FIGURES["oracle"].mean(measured["oracle"][name])
        assert estimate is not None
        own = (oracle[key] for key in ("mean", "full", "correct", "all_correct"))
        found[name] = Model(*own, f"[{estimate.low:.2f}, {estimate.high:.2f}]", accuracy)
    return found


def metrics(run_dir: Path, iteration: int, stage: str) -> dict:
    done = manifest.read(run_dir / f"iter{iteration}" / stage)
    if done is None:
        sys.exit(f"{run_dir}/iter{iteration}/{stage} is not done")
    return done.metrics


def run(name: str, overrides: list[str]) -> Path:
    """Runs one run, or what remains of it. Returns its directory."""
    started = time.time()
    command = [sys.executable, "-m", "nemo_srlm.cli", "run", "--config-name", "tiny", f"run.name={name}", *overrides]
    print(f"== {name}: {' '.join(overrides)}", flush=True)
    subprocess.run(command, cwd=ROOT, check=True)
    print(f"== {name}: {time.time() - started:.0f} s", flush=True)
    return ROOT / "runs" / name


def shared(*names: str) -> list[str]:
    """`run.reuse` for the first of these runs that exists: its trained models are reused."""
    known = [ROOT / "runs" / name for name in names]
    return [f"run.reuse={path}" for path in known if path.is_dir()][:1]


def row(seed: int, label: str, m: Model) -> str:
    """Four digits: README's changes are computed from these cells."""
    judge = "-" if m.judge is None else f"{m.judge:.4f}"
    return f"| {seed} | {label} | {m.mean:.4f} {m.interval} | {m.full:.4f} | {m.correct:.4f} | {m.all_correct:.4f} | {judge} |"


def verdicts(found: dict[int, dict[str, Model]]) -> list[str]:
    """Lines with the acceptance criteria of every seed, those of the control arm where it ran, and the goals over all seeds."""
    lines = []
    for seed, m in found.items():
        gain, full = m["M2"].mean - m["M1"].mean, m["M2"].full - m["M1"].full
        judge, content = m["M1"].judge or 0.0, m["M3"].all_correct - m["M1"].all_correct
        checks = {
            f"M2 - M1 mean {gain:+.2f} (>= +.30)": gain >= 0.30,
            f"full marks {full:+.2f} (>= +.18)": full >= 0.18,
            f"judge of M1 {judge:.3f} (>= .62)": judge >= 0.62,
            f"all right, M3 - M1 {content:+.3f} (>= +.08)": content >= 0.08,
        }
        if "random M2" in m:
            flat, flat_full = m["random M2"].mean - m["M1"].mean, m["random M2"].full - m["M1"].full
            flat_content = m["random M3"].all_correct - m["M1"].all_correct
            checks |= {
                f"random M2 - M1 mean {flat:+.2f} (<= +.20)": flat <= 0.20,
                f"full marks {flat_full:+.2f} (<= +.10)": flat_full <= 0.10,
                f"all right, random M3 - M1 {flat_content:+.3f} (-.03 to +.03)": abs(flat_content) <= 0.03,
            }
        lines.append(f"- seed {seed}: " + "; ".join(f"{k} {'holds' if ok else 'FAILS'}" for k, ok in checks.items()))
    rises = [m["M3"].mean - m["M2"].mean for m in found.values()]
    judge = [(m["M3"].judge or 0) - (m["M1"].judge or 0) for m in found.values()]
    rising = f"> 0 on {sum(x > 0 for x in rises)} of {len(rises)}, worst {min(rises):+.2f}"
    lines += [
        f"- goal: M3 - M2 mean {', '.join(f'{x:+.2f}' for x in rises)} ({rising})",
        f"- goal: judge of M3 - M1 {', '.join(f'{x:+.3f}' for x in judge)} (worst allowed -.03)",
    ]
    return lines


def paired(run_dir: Path) -> list[str]:
    """Changes of a run from M1 to its last model, paired by question."""
    found = units.changes(units.read(RunFiles(run_dir)))
    last = [
        max((c for c in found[name] if c["first"] == "M1"), key=lambda c: c["last"]) for name in SHOWN if name in found
    ]
    return [
        f"{FIGURES[name].title} {signed(c['value'], FIGURES[name].unit)} {interval(c, FIGURES[name].unit)}"
        for name, c in zip((name for name in SHOWN if name in found), last, strict=True)
    ]


def content_by_family(run_dirs: dict[int, Path], model_dirs: dict[int, Path]) -> list[str]:
    """Lines with the change of the content from M1 of the runs to M3 of others, or of the same, per seed and over the seeds: of
    all questions, and of every family."""
    groups = {"all": FAMILIES, **{family: (family,) for family in FAMILIES}}
    first, last = (
        {seed: units.read(RunFiles(path))["all_correct"] for seed, path in found.items()}
        for found in (run_dirs, model_dirs)
    )
    lines = []
    for name, chosen in groups.items():
        a = {seed: families.within(found, chosen)["M1"] for seed, found in first.items()}
        b = {seed: families.within(found, chosen)["M3"] for seed, found in last.items()}
        numbers = " ".join(str(len(b[seed])) for seed in b)
        lines.append(f"{name} ({numbers} questions) {each_and_over_seeds(FIGURES['all_correct'], a, b)}")
    return lines


def judge_on_content(run_dirs: dict[int, Path], model_dirs: dict[int, Path]) -> str:
    """The change of the judge from M1 to M3 on the pairs of replies that differ in content alone."""
    first, last = (
        {seed: content_alone.judged(RunFiles(path), t) for seed, path in found.items()}
        for found, t in ((run_dirs, 0), (model_dirs, 2))
    )
    return each_and_over_seeds(content_alone.FIGURE, first, last)


def each_and_over_seeds(figure: Figure, first: dict[int, Units], last: dict[int, Units]) -> str:
    """`+4.4 -1.0 ..., over seeds +1.7 [-1.7, +5.1]`, in points; of the seeds of `last`."""
    each = [figure.difference(first[seed], last[seed]) for seed in last]
    values = [change.value for change in each if change is not None]
    over = of_values(values)
    assert over is not None
    mean = f"{100 * over.value:+.1f}"
    mean += "" if over.low is None or over.high is None else f" [{100 * over.low:+.1f}, {100 * over.high:+.1f}]"
    return f"{' '.join(f'{100 * value:+.1f}' for value in values)}, over seeds {mean}"


def commits(run_dirs: list[Path]) -> list[str]:
    """Every commit that took part in the runs."""
    manifests = [m for run_dir in run_dirs for m in RunFiles(run_dir).manifests.values()]
    return sorted({m.provenance["commit"] for m in manifests})


def cpu() -> str:
    """The processor's name, and how many of it this process may use."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def write_document(split: str, text: str) -> None:
    """Replaces the block of this split in docs/measurements.md, or appends it."""
    begin, end = BEGIN.format(split=split), END.format(split=split)
    old = DOC.read_text(encoding="utf-8")
    block = f"{begin}\n{text}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.S)
    DOC.write_text(
        pattern.sub(lambda _: block, old) if pattern.search(old) else f"{old.rstrip()}\n\n{block}\n", encoding="utf-8"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", choices=["dev", "test"], default="dev")
    parser.add_argument("--arms", nargs="+", choices=["random", "oracle"], default=["random"])
    parser.add_argument("--control-seeds", type=int, nargs="*", help="seeds on which the arms are run (default: all)")
    parser.add_argument("--quick", action="store_true", help="seed 0 only")
    parser.add_argument("--write", action="store_true", help="also write the table to docs/measurements.md")
    parser.add_argument("overrides", nargs="*", help="more settings for every run, key=value")
    args = parser.parse_args()
    seeds = args.seeds[:1] if args.quick else args.seeds
    found: dict[int, dict[str, Model]] = {}
    rows, run_dirs, changed = [], [], []
    by_arm: dict[str, dict[int, Path]] = {"": {}}
    for seed in seeds:
        common = [f"run.seed={seed}", f"world.seed={seed}", f"world.split={args.split}", *args.overrides]
        other = f"bench-{'test' if args.split == 'dev' else 'dev'}-{seed}"
        base = run(f"bench-{args.split}-{seed}", [*common, *shared(other, *(["tiny"] if seed == 0 else []))])
        run_dirs.append(base)
        by_arm[""][seed] = base
        changed.append(f"- seed {seed}, M1 to M3, paired: {'; '.join(paired(base))}")
        measured = models(base)
        own = {"SFT baseline": measured.pop("baseline"), **measured}
        for arm in args.arms if seed in (args.control_seeds or seeds) else []:
            reuse = shared(f"{other}-{arm}", base.name)
            control = run(f"bench-{args.split}-{seed}-{arm}", [*common, f"run.arm={arm}", *reuse])
            run_dirs.append(control)
            by_arm.setdefault(arm, {})[seed] = control
            changed.append(f"- seed {seed}, arm {arm}, M1 to M3, paired: {'; '.join(paired(control))}")
            measured = models(control)
            own |= {f"{arm} {name}": measured[name] for name in ("M2", "M3")}
        found[seed] = own
        rows += [row(seed, label, m) for label, m in own.items()]
    for arm, dirs in by_arm.items():
        last = f"M1 to M3{f' of the arm {arm}' if arm else ''}, points"
        changed += [f"- content all right, {last}: {line}" for line in content_by_family(by_arm[""], dirs)]
        changed.append(f"- judge, replies that differ in content alone, {last}: {judge_on_content(by_arm[''], dirs)}")
    head = (
        "| seed | model | oracle score | full marks | correctness | all right | judge |\n|---|---|---|---|---|---|---|"
    )
    words = f"--seeds {' '.join(map(str, seeds))} --split {args.split} --arms {' '.join(args.arms)}"
    words += f" --control-seeds {' '.join(map(str, args.control_seeds))}" if args.control_seeds else ""
    words += "".join(f" {override}" for override in args.overrides)
    title = [f"## The tiny world, {args.split} split", ""]
    made = commits(run_dirs)
    where = [
        f"`tools/bench/tiny_world.py {words}`; {time.strftime('%Y-%m-%d')}, {cpu()}, commit {', '.join(made)}.",
        "",
    ]
    text = "\n".join([*title, *where, head, *rows, "", *verdicts(found), *changed])
    print(text)
    if args.write:
        if len(made) != 1 or "dirty" in made[0] or made == ["unknown"]:
            sys.exit(f"not written: the runs are of {', '.join(made)}; a recorded table is of one commit")
        write_document(args.split, text)


if __name__ == "__main__":
    main()
