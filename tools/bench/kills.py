"""Checks that a run killed with SIGKILL at random times ends with the same records and weights as an undisturbed run.

    python tools/bench/kills.py --kills 10 [key=value ...]

Runs the loop once undisturbed and once with the launcher killed `--kills` times, at random times spread over the
duration of the undisturbed run. Then compares the SHA-256 of every JSONL output and every exported weight file.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = ("*.jsonl", "hf/*.safetensors")  # of every stage: records and exported weights
TIMED = {"metrics.jsonl"}  # contains seconds and tokens/s, which differ between runs


def command(name: str, config_name: str, overrides: list[str]) -> list[str]:
    return [
        sys.executable, "-m", "nemo_srlm.cli", "run", "--config-name", config_name, f"run.name={name}", *overrides
    ]  # fmt: skip


def digests(run_dir: Path) -> dict[str, str]:
    """Output file -> SHA-256, for all stages."""
    found = {}
    for stage in sorted(run_dir.glob("iter*/*")):
        for pattern in OUTPUTS:
            for path in sorted(stage.glob(pattern)):
                if path.name not in TIMED:
                    found[str(path.relative_to(run_dir))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def run_with_kills(words: list[str], moments: list[float]) -> int:
    """Runs `words` until it finishes; attempt i is killed after moments[i] seconds. Returns the number of kills."""
    struck = 0
    for pause in [*moments, None]:
        child = subprocess.Popen(words, cwd=ROOT, start_new_session=True)
        try:
            code = child.wait(pause)
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)  # the parent only: its children must die with it, which is also tested
            child.wait()
            struck += 1
            print(f"-- killed after {pause:.1f} s ({struck})", flush=True)
            continue
        if code:
            sys.exit(f"the run failed with exit code {code}")
        break
    return struck


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="seed of the kill times")
    parser.add_argument("--config-name", default="tiny")
    parser.add_argument("--root", default="runs", help="directory of the two runs")
    parser.add_argument("--quick", action="store_true", help="three kills")
    parser.add_argument("overrides", nargs="*", help="settings of both runs, key=value")
    args = parser.parse_args()
    overrides = [f"run.root={args.root}", *args.overrides]
    started = time.monotonic()
    subprocess.run(command("kills-none", args.config_name, overrides), cwd=ROOT, check=True)
    whole = time.monotonic() - started
    rng = random.Random(args.seed)
    kills = 3 if args.quick else args.kills
    moments = [rng.uniform(0.02, 1.6) * whole / kills for _ in range(kills)]
    struck = run_with_kills(command("kills-many", args.config_name, overrides), moments)
    one, other = (digests(ROOT / args.root / name) for name in ("kills-none", "kills-many"))
    different = sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))
    print(f"undisturbed {whole:.0f} s; {struck} kills; {len(one)} files compared, {len(different)} differ")
    for name in different:
        print(f"  differs: {name}")
    sys.exit(1 if different or not struck else 0)


if __name__ == "__main__":
    main()
