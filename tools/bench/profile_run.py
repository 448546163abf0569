"""Where the time of a run on one machine went, by the manifests of its stages: what a user waits for, and where.

    python tools/bench/profile_run.py runs/tiny

Groups of stages, the time between the end of a stage and the start of the next one (processes that start and end), and the
starts of engines. Of a run that was not interrupted: waiting for its next start would count as time between stages.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nemo_srlm.core.manifest import Manifest
from nemo_srlm.report.run_files import RunFiles
from nemo_srlm.stages import load

PRETRAINING = "pretraining of M0"
KINDS = {"train": "the other trainings", "convert": "exports with their checks", "generate": "generation and judging"}


def group(stage: str) -> str:
    if stage == "pretrain":
        return PRETRAINING
    return "reports" if stage == "report" else KINDS.get(load(stage).kind, "other stages")


def starts(done: Manifest) -> int:
    """Engines that the stage started, counted once each."""
    usage = done.metrics.get("engine") or done.metrics.get("usage") or {}
    return int(usage.get("starts", 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    files = RunFiles(parser.parse_args().run_dir)
    own = {
        ref: done for ref, done in files.manifests.items() if not (files.dir / f"iter{ref[0]}" / ref[1]).is_symlink()
    }
    order = sorted(own.items(), key=lambda item: item[1].provenance["started"])
    seconds, number = (
        dict.fromkeys((PRETRAINING, *KINDS.values()), 0.0),
        dict.fromkeys((PRETRAINING, *KINDS.values()), 0),
    )
    gaps: list[tuple[float, str]] = []
    end = order[0][1].provenance["started"]
    for (iteration, stage), done in order:
        began, finished = done.provenance["started"], done.provenance["finished"]
        gaps.append((max(0.0, began - end), f"iter{iteration}/{stage}"))
        name = group(stage)
        seconds[name] = seconds.get(name, 0.0) + max(
            0.0, finished - max(began, end)
        )  # stages of one worker may overlap
        number[name] = number.get(name, 0) + 1
        end = max(end, finished)
    whole = end - order[0][1].provenance["started"]
    commits = ", ".join(sorted({done.provenance["commit"] for _, done in order}))
    print(f"{files.dir}: {whole:.0f} s, {sum(starts(done) for _, done in order)} engine starts, commit {commits}\n")
    print("| | stages | seconds | share |\n|---|---|---|---|")
    between = sum(gap for gap, _ in gaps)
    for name, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"| {name} | {number[name]} | {spent:.1f} | {100 * spent / whole:.0f}% |")
    longest = ", ".join(f"{gap:.1f} before {ref}" for gap, ref in sorted(gaps, reverse=True)[:5])
    print(f"| between stages; the longest: {longest} | | {between:.1f} | {100 * between / whole:.0f}% |")


if __name__ == "__main__":
    main()
