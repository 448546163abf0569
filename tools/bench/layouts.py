"""Compares 20 steps of SFT and DPO under every parallel layout with one process: the largest difference of a loss.

    python tools/bench/layouts.py            1, 2 and 4 processes over gloo; about two minutes of CPU time
    python tools/bench/layouts.py --quick    1 and 2 processes

Same data, seed and weights; no dropout; fp32. Fails above 1e-4. Model and steps are those of the tests
(tests/pipeline/trainer_worker.py), which check six steps of the same layouts in CI.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WORKER = ROOT / "tests" / "pipeline" / "trainer_worker.py"
LIMIT = 1e-4


def steps_of(processes: int, out: Path) -> dict[str, Any]:
    """Losses and gradient norms of every layout with this number of processes."""
    command = [
        sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
        str(WORKER), str(out), "steps",
    ]  # fmt: skip
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, check=True)
    found: dict[str, Any] = json.loads((out / "steps.json").read_text())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    for processes in (1, 2) if args.quick else (1, 2, 4):
        with tempfile.TemporaryDirectory() as folder:
            found |= steps_of(processes, Path(folder))
    worst = 0.0
    print(f"{'layout':14} {'SFT':>10} {'DPO':>10}   largest |loss - loss of one process| over 20 steps")
    for name in dict.fromkeys(key.partition("/")[2] for key in found):
        row = []
        for kind in ("sft", "dpo"):
            pairs = zip(found[f"{kind}/{name}"]["losses"], found[f"{kind}/one"]["losses"], strict=True)
            row.append(max(abs(a - b) for a, b in pairs))
        worst = max(worst, *row)
        print(f"{name:14} {row[0]:10.2e} {row[1]:10.2e}")
    print(f"worst {worst:.2e}, limit {LIMIT:.0e}: {'holds' if worst <= LIMIT else 'DOES NOT HOLD'}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
