"""Kills every kind of stage with SIGKILL, again and again, and compares what it then makes with an undisturbed run.

    python tools/bench/stage_kills.py --kills 20 [--stages sft dpo] [key=value ...]

A reduced tiny loop is run once undisturbed, or `--whole` names a finished run of the same settings. Then each stage is run
alone, its inputs being done, and killed until it was killed `--kills` times: the launcher, or any process below it, at a
random moment of the start or of the work. It is resumed after each kill. Whenever it finishes, its records and weights are
compared with the undisturbed run's, and it begins anew. Of every kill: is a process left after 10 seconds?
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MARK = "NEMO_SRLM_STAGE_KILLS"  # environment: names the processes of one attempt, whatever their parents and sessions
REDUCED = (
    "iterations=1", "world.num_documents=6000", "world.num_ift=200", "world.num_eft=400", "world.num_eval_prompts=8",
    "world.num_eval_judge=4", "pretrain.max_steps=120", "pretrain.save_every=40", "sft.epochs=2", "sft.save_every=4",
    "dpo.save_every=1", "dpo.epochs=2", "prompts.num_prompts=24", "prompts.round_size=48", "candidates.num=4",
    "pairs.pool_equal_texts=false", "eval.baseline=needed",
)  # fmt: skip
STAGES = {  # of which iteration
    "world": 0, "seed": 0, "sft": 0, "export": 0, "prompts": 1, "candidates": 1, "judge": 1, "dpo": 1,
}  # fmt: skip
OUTPUTS = ("*.jsonl*", "tokenizer/*", "hf/*", "checkpoint/final/*.distcp")  # records and weights
TIMED = ("seconds", "tokens_per_s", "tflops", "mfu")  # of metrics.jsonl
LEFT_SECONDS = 10.0
PATIENCE = 600.0  # seconds that a stage may take, for a busy machine


@dataclass
class Found:
    """What happened to one kind of stage."""

    kills: int = 0
    rounds: int = 0  # times that it was finished and compared
    victims: dict[str, int] = field(default_factory=dict)
    differ: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)  # of launchers that ended by themselves, otherwise than 0 and 1


def digest(path: Path) -> str:
    """Of a file's content; of metrics.jsonl without what a clock measured."""
    content = path.read_bytes()
    if path.name == "metrics.jsonl":
        rows = [json.loads(line) for line in content.splitlines()]
        content = json.dumps([{k: v for k, v in row.items() if k not in TIMED} for row in rows]).encode()
    return hashlib.sha256(content).hexdigest()


def digests(stage_dir: Path) -> dict[str, str]:
    """Output file -> SHA-256, of one stage."""
    found = {path for pattern in OUTPUTS for path in stage_dir.glob(pattern) if path.is_file()}
    return {str(path.relative_to(stage_dir)): digest(path) for path in sorted(found)}


def marked(mark: str) -> dict[int, str]:
    """The living processes of an attempt: id -> command."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            words = (folder / "cmdline").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:  # it has ended
            continue
        if state not in "ZX":
            found[int(folder.name)] = b" ".join(words).decode(errors="replace").strip()
    return found


def kind_of(words: str) -> str:
    """A process in the words of the table."""
    for part, name in (("launch.torchrun", "agent"), ("launch.train_worker", "rank"), ("launch.worker", "worker"),
                       ("nemo_srlm.cli", "launcher"), ("VLLM", "engine")):  # fmt: skip
        if part in words:
            return name
    return "other"


class Attempt:
    """One start of `nemo-srlm STAGE`."""

    def __init__(self, words: list[str], log: Path) -> None:
        self.mark, self.started = uuid.uuid4().hex, time.time()
        with log.open("ab") as file:
            self.child = subprocess.Popen(
                words, cwd=ROOT, env={**os.environ, MARK: self.mark}, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip

    def wait(self, seconds: float, progress: Path | None = None) -> bool:
        """Waits, at most until `progress` is written. Returns whether the launcher still runs."""
        until = time.monotonic() + seconds
        while self.child.poll() is None and time.monotonic() < until:
            if progress and progress.exists() and progress.stat().st_mtime > self.started:
                break
            time.sleep(0.01)
        return self.child.poll() is None

    def kill(self, rng: random.Random) -> str:
        """Kills the launcher, or every second time any process below it. Returns what it was; "" where all had ended."""
        alive = marked(self.mark)
        below = sorted(set(alive) - {self.child.pid})
        victim = rng.choice(below) if below and rng.random() < 0.5 else self.child.pid
        if victim not in alive:
            return ""
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            return ""
        return kind_of(alive[victim])

    def end(self) -> tuple[int, list[str]]:
        """Waits until every process has ended. Returns the launcher's exit code and what is left after 10 seconds."""
        code, until = self.child.wait(PATIENCE), time.monotonic() + LEFT_SECONDS
        while (left := marked(self.mark)) and time.monotonic() < until:
            time.sleep(0.05)
        for process in left:
            os.kill(process, signal.SIGKILL)
        return code, list(left.values())


def command(root: Path, name: str, verb: str, overrides: list[str], *options: str) -> list[str]:
    settings = ["--config-name", "tiny", f"run.root={root}", f"run.name={name}", *overrides]
    return [sys.executable, "-m", "nemo_srlm.cli", verb, *options, *settings]


def strike(root: Path, stage: str, kills: int, whole: float, overrides: list[str], rng: random.Random) -> Found:
    """Kills one kind of stage `kills` times. `whole`: seconds that it takes undisturbed."""
    found, iteration = Found(), STAGES[stage]
    here = root / "killed" / f"iter{iteration}" / stage
    wanted = digests(here)  # as `undisturbed` left it: by this code, where `--whole` may be of another version
    assert wanted, here
    shutil.rmtree(here)
    words = command(root, "killed", stage, overrides, "--iteration", str(iteration))
    while True:
        attempt = Attempt(words, root / f"{stage}.log")
        struck, in_work = "", found.kills % 2 == 1
        if found.kills < kills:
            running = not in_work or attempt.wait(PATIENCE, here / "progress.json")
            # early in the work is where the short stages still are
            if running and attempt.wait(whole / 2 * rng.random() ** 3 if in_work else whole * rng.random()):
                struck = attempt.kill(rng)
        code, left = attempt.end()
        found.left += left
        if struck:
            found.kills += 1
            found.victims[struck] = found.victims.get(struck, 0) + 1
            print(
                f"  {stage}: kill {found.kills}, {struck}{' in its work' if in_work else ''}",
                file=sys.stderr,
                flush=True,
            )
        if code not in (0, 1, -signal.SIGKILL):
            found.codes.append(code)
        done = (here / "manifest.json").exists()
        if not struck and not done:
            sys.exit(f"{stage} failed by itself: see {root / f'{stage}.log'}")
        if not done:
            continue
        now = digests(here)
        found.differ += sorted(name for name in now.keys() | wanted.keys() if now.get(name) != wanted.get(name))
        found.rounds += 1
        if found.kills >= kills:
            return found
        shutil.rmtree(here)


def undisturbed(root: Path, stages: list[str], overrides: list[str]) -> dict[str, float]:
    """Runs the loop to the end of DPO, or takes that of an earlier call; returns the seconds that each stage takes alone."""
    with (root / "whole.log").open("ab") as log:
        done = subprocess.run(
            command(root, "whole", "run", overrides, "--until", "dpo"), cwd=ROOT, stdout=log, stderr=log, check=False
        )
    if done.returncode:
        sys.exit(f"the undisturbed run failed: see {root / 'whole.log'}")
    shutil.rmtree(root / "killed", ignore_errors=True)
    shutil.copytree(root / "whole", root / "killed", symlinks=True)
    seconds = {}
    for stage in stages:
        iteration = STAGES[stage]
        shutil.rmtree(root / "killed" / f"iter{iteration}" / stage)
        started = time.monotonic()
        code, _ = Attempt(
            command(root, "killed", stage, overrides, "--iteration", str(iteration)), root / f"{stage}.log"
        ).end()
        if code:
            sys.exit(f"{stage} alone failed: see {root / f'{stage}.log'}")
        seconds[stage] = time.monotonic() - started
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each stage")
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--seed", type=int, default=0, help="seed of moments and victims")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("runs/stage_kills"),
        help="directory of the runs; its undisturbed run is reused",
    )
    parser.add_argument(
        "--whole", type=Path, metavar="RUN_DIR", help="a finished tiny run in place of a reduced one made here"
    )
    parser.add_argument("--quick", action="store_true", help="two kills of world, seed and judge")
    parser.add_argument("overrides", nargs="*", help="settings of the runs, key=value")
    args = parser.parse_args()
    if args.quick:
        args.kills, args.stages = 2, ["world", "seed", "judge"]
    root = args.root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    overrides = [*(() if args.whole else REDUCED), *args.overrides]
    if args.whole and not (root / "whole").exists():
        shutil.copytree(args.whole, root / "whole", symlinks=True)
    seconds, rng, bad = undisturbed(root, args.stages, overrides), random.Random(args.seed), False
    print("stage       alone  kills  finished  files  differ  left after 10 s  killed", flush=True)
    for stage in args.stages:
        found = strike(root, stage, args.kills, seconds[stage], overrides, rng)
        files = len(digests(root / "killed" / f"iter{STAGES[stage]}" / stage))
        victims = ", ".join(f"{number} {name}" for name, number in sorted(found.victims.items()))
        print(f"{stage:10} {seconds[stage]:5.0f} s {found.kills:5} {found.rounds:9} {files:6} {len(found.differ):7} "
              f"{len(found.left):16}  {victims}", flush=True)  # fmt: skip
        for line in (*found.differ, *found.left, *(f"exit code {code}" for code in found.codes)):
            print(f"    {line}", flush=True)
        bad |= bool(found.differ or found.left or found.codes or found.kills < args.kills)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
