"""Prints what `make demo-real` measured, as Markdown: time and tokens by stage, then M0 to M3 and the control side by side.

    python tools/bench/real_demo.py [RUN] [CONTROL]      the default: runs/smollm2 and runs/smollm2-random

It reads finished stages only and runs nothing, so it can also be called while the demo is running.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from nemo_srlm.core import manifest
from nemo_srlm.core.pipeline import evaluated_models
from nemo_srlm.report import costs
from nemo_srlm.report.run_files import RunFiles

ROOT = Path(__file__).resolve().parents[2]


def times(run_dir: Path) -> list[str]:
    """Wall time and tokens of each stage that this run executed itself."""
    rows = [row for row in costs.read(RunFiles(run_dir)) if not row["reused"]]
    lines = [f"| stage of {run_dir.name} | seconds | tokens trained on or generated |", "|---|---|---|"]
    for row in rows:
        if row["seconds"] >= 1:
            lines.append(f"| iter{row['iteration']}/{row['stage']} | {row['seconds']:.0f} | {row['tokens'] or ''} |")
    total = sum(row["seconds"] for row in rows) / 60
    span = (max(r["started"] + r["seconds"] for r in rows) - min(r["started"] for r in rows)) / 60 if rows else 0.0
    return [*lines, "", f"Stages {total:.1f} min; from the first one's start to the last one's end {span:.1f} min."]


def metrics(run_dir: Path, iteration: int, stage: str) -> dict[str, Any]:
    done = manifest.read(run_dir / f"iter{iteration}" / stage)
    return {} if done is None else done.metrics


def percent(value: float | None, interval: list[float] | None = None) -> str:
    if value is None:
        return "-"
    shown = f"{100 * value:.1f}"
    return shown if interval is None else f"{shown} ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})"


def models(run_dir: Path, label: str, first: int) -> list[str]:
    """A row for each evaluated model, from M<first> on."""
    lines = []
    cfg = RunFiles(run_dir).cfg
    for name, t, suffix in evaluated_models(cfg, cfg.iterations):
        judge, responses = (metrics(run_dir, t, f"{kind}{suffix}") for kind in ("eval_reward", "eval_responses"))
        if not judge or (first and t < first):
            continue
        compared = [] if suffix else metrics(run_dir, t, "eval_h2h").get("comparisons", [])
        h2h = {row["other"]: row for row in compared}
        against = [f"{other} {row['counts']['win']}:{row['counts']['loss']}" for other, row in h2h.items()]
        drift, dpo = responses.get("drift", {}), metrics(run_dir, t, "dpo") if t else {}
        held_out = dpo.get("validation", {}).get("accuracy")
        lines.append(
            f"| {label}{name} | {percent(judge['pairwise_accuracy'], judge['intervals']['pairwise_accuracy'])} "
            f"| {percent(1 - judge['health']['parse_failure'])} | {drift.get('words', 0):.0f} "
            f"| {percent(responses.get('truncated'))} | {drift.get('distinct_2', 0):.2f} "
            f"| {percent(held_out)} | {', '.join(against)} |"
        )
    return lines


def iterations(run_dir: Path, label: str) -> list[str]:
    """A row for each iteration: what came out of every step."""
    lines = []
    for t in range(1, RunFiles(run_dir).cfg.iterations + 1):
        found = {name: metrics(run_dir, t, name) for name in ("prompts", "candidates", "judge", "pairs", "dpo")}
        if not all(found.values()):
            continue
        judge, dpo = found["judge"], found["dpo"]
        lines.append(
            f"| {label}{t} | {found['prompts']['accepted']} of {found['prompts']['attempts']} "
            f"| {found['candidates']['responses']} | {percent(1 - judge['parse_failure'])} "
            f"| {judge['score_mean']:.2f} ± {judge['score_std']:.2f} | {found['pairs']['pairs']} "
            f"| {dpo['first']['dpo_loss']:.4f} -> {dpo['last']['dpo_loss']:.4f} |"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, default=ROOT / "runs" / "smollm2")
    parser.add_argument("control", nargs="?", type=Path, default=ROOT / "runs" / "smollm2-random")
    parser.add_argument("--quick", action="store_true", help="no difference: nothing is run")
    args = parser.parse_args()
    if not (args.run / "config.yaml").exists():
        print(f"{args.run}: no run; `make demo-real` makes it")
        return 0 if args.quick else 2
    runs = [(args.run, "", 0), *([(args.control, "control, ", 1)] if (args.control / "config.yaml").exists() else [])]
    lines = [
        "| iteration | prompts accepted | responses | judgements with a score, % | score | pairs | DPO loss |",
        "|---|---|---|---|---|---|---|", *(line for run, label, _ in runs for line in iterations(run, label)), "",
        "| model | as a judge: held-out pairs right, % (95%) | with a score, % | words | cut, % | distinct-2 "
        "| DPO: unseen pairs right, % | its judge prefers it : the other |",
        "|---|---|---|---|---|---|---|---|", *(line for run, label, first in runs for line in models(run, label, first)),
    ]  # fmt: skip
    for run, _, _ in runs:
        lines += ["", *times(run)]
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
