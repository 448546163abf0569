"""Benchmark of Slurm's overhead: the tiny loop through a temporary cluster against the same loop run locally.

    tools/bench/slurm_overhead.py [--quick] [key=value ...]

Both run the same config (two training processes, no shards) on this machine, one after the other. Required: at most
1.15x the local time plus 5 s per stage. --quick uses a much smaller world. Skipped if Slurm is not installed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUICK = [  # the smallest world on which the judge still gives different scores to different responses
    "world.num_documents=6000", "world.num_ift=200", "world.num_eft=400", "world.num_eval_prompts=24",
    "world.num_eval_judge=10", "pretrain.max_steps=120", "sft.epochs=2", "dpo.epochs=3", "prompts.num_prompts=32",
    "prompts.round_size=96", "candidates.num=4", "pairs.pool_equal_texts=false", "iterations=1",
]  # fmt: skip
FACTOR, PER_STAGE = 1.15, 5.0


def call(words: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def local(overrides: list[str], root: Path) -> float:
    started = time.monotonic()
    call(
        [sys.executable, "-m", "nemo_srlm.cli", "run", f"run.root={root}", "run.name=local", *overrides],
        dict(os.environ),
    )
    return time.monotonic() - started


def through_slurm(overrides: list[str], root: Path) -> tuple[float, int]:
    """(seconds from sbatch to the end of the last job, number of stages)."""
    cluster = Path(tempfile.mkdtemp(prefix="srlm-bench-", dir="/tmp"))
    call([str(ROOT / "tools/dev_cluster.sh"), "start", str(cluster)], dict(os.environ))
    env = os.environ | {"SLURM_CONF": str(cluster / "etc/slurm.conf"), "PYTHON": sys.executable}
    try:
        started = time.monotonic()
        words = [str(ROOT / "slurm/iteration.sh"), "cluster=dev", f"run.root={root}", "run.name=slurm", *overrides]
        call(["sbatch", "--wait", "--output=/dev/null", *words], env)
        while call(["squeue", "--noheader"], env).strip():
            time.sleep(1)
        seconds = time.monotonic() - started
    finally:
        call([str(ROOT / "tools/dev_cluster.sh"), "stop", str(cluster)], dict(os.environ))
    done = len(list((root / "slurm").glob("iter*/*/manifest.json")))
    if done != len(list((root / "local").glob("iter*/*/manifest.json"))):
        print(call([sys.executable, "-m", "nemo_srlm.cli", "status", str(root / "slurm")], dict(os.environ)))
        sys.exit("the run through Slurm is not complete")
    shutil.rmtree(cluster, ignore_errors=True)
    return seconds, done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        print("skipped: no Slurm on this machine")
        return 0
    overrides = [*(QUICK if args.quick else []), *args.overrides]
    with tempfile.TemporaryDirectory(prefix="srlm-bench-") as name:
        root = Path(name)
        here = local(overrides, root)
        there, stages = through_slurm(overrides, root)
    limit = FACTOR * here + PER_STAGE * stages
    print("| | seconds |\n|---|---|")
    print(f"| local | {here:.0f} |\n| through Slurm, {stages} stages | {there:.0f} |")
    print(f"| allowed: {FACTOR} x local + {PER_STAGE:.0f} s per stage | {limit:.0f} |")
    return int(there > limit)


if __name__ == "__main__":
    sys.exit(main())
