"""kill -9 at random moments: does the finished run have the same records and weights as an undisturbed one?

    python tools/bench/kills.py --kills 10 [key=value ...]

Runs the loop once undisturbed and once with the whole process group killed `--kills` times, at moments spread over the
undisturbed run's duration, then compares every JSONL output byte by byte and every exported weight file by digest.
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
TIMED = {"metrics.jsonl"}  # holds seconds and tokens/s, which differ from run to run


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
    """Runs `words` to its end, killing it after each of `moments` seconds of work. Returns how many kills struck."""
    struck = 0
    for pause in [*moments, None]:
        child = subprocess.Popen(words, cwd=ROOT, start_new_session=True)
        try:
            code = child.wait(pause)
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)  # only the parent: that its children die with it is part of the claim
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
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--config-name", default="tiny")
    parser.add_argument("--root", default="runs", help="where the two runs go")
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
