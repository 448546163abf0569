"""Benchmark of `nemo-srlm status` on a run of 30 iterations, 64 shards and 200,000 items: seconds as its user waits for them.

    tools/bench/status.py [--repeats 10] [--quick]

Each repetition is a process of its own; `--version` beside it is what the start of the program takes. Limit: 1 s.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests import large_run  # noqa: E402

LIMIT = 1.0  # seconds


def seconds(words: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "nemo_srlm.cli", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="two repetitions: checks that it works, not its speed")
    arguments = parser.parse_args()
    repeats = 2 if arguments.quick else arguments.repeats
    with tempfile.TemporaryDirectory() as name:
        run_dir = str(large_run.build(Path(name)))
        print("| command | median s | slowest s | median / limit |\n|---|---|---|---|")
        for words in (["status", run_dir], ["status", "--json", run_dir], ["--version"]):
            took = [seconds(words) for _ in range(repeats)]
            median = statistics.median(took)
            print(
                f"| {' '.join(w for w in words if w != run_dir)} | {median:.2f} | {max(took):.2f} | {median / LIMIT:.2f} |"
            )


if __name__ == "__main__":
    main()
