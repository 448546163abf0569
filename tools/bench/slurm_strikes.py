"""Strikes the tiny loop on Slurm at random moments, over and over, and compares what it ends with.

    tools/bench/slurm_strikes.py [--strikes N] [--per-loop N] [--seed S] [--pause LOW HIGH] [--toy] [key=value ...]

Kinds: a node is killed; a person cancels a job; a worker is killed with SIGKILL; a job is preempted; the controller is
restarted; the disk is full for some seconds; a time limit comes near. A run that has stopped is submitted again, as its
user would, and drained nodes are resumed, as administrators would. Every loop must end with exactly the JSONL outputs and
weights of the undisturbed one. `--toy`: the toy pipeline of tests/slurm, with real jobs and no models, for many strikes in
little time. Skipped if Slurm is not installed.
The disk is a tmpfs, which only root can mount; others leave that kind out. --quick: two strikes on the toy pipeline.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.bench.kills import digests  # noqa: E402
from tools.bench.slurm_disturb import SHAPE, SMALL, Loop, restart_node, undisturbed  # noqa: E402

TOY = ROOT / "tests/slurm/toy"
WORKERS = (
    b"nemo_srlm.launch.worker", b"nemo_srlm.launch.torchrun", b"nemo_srlm.launch.train_worker", b"nemo_srlm.launch.slurm.step",
    b"toy_torchrun", b"toy_trainer",
)  # fmt: skip
DISK = "512m"


@dataclass(frozen=True)
class Toy(Loop):
    """The toy pipeline, slow enough to be struck."""

    toy: dict[str, str] = field(
        default_factory=lambda: {
            "TOY_ITEM": "0.4",
            "TOY_STEP": "0.5",
            "PYTHONPATH": f"{TOY}:{ROOT}",
            "OMP_NUM_THREADS": "1",
        }
    )

    @property
    def env(self) -> dict[str, str]:
        return super().env | self.toy

    def submission(self, *overrides: str) -> list[str]:
        words = [word for word in super().submission(*overrides) if word not in SHAPE]
        return [words[0], "--config-name", "toy", "--config-dir", str(TOY / "configs"), *words[1:]]


def running(loop: Loop) -> list[list[str]]:
    """Running jobs of the run; no supervisor, whose jobs last a second."""
    return [
        job for job in loop.jobs() if job[1] == "RUNNING" and f" {loop.dir}" in job[3] and " supervise " not in job[3]
    ]


def node(loop: Loop, rng: random.Random) -> None:
    place = rng.choice(running(loop))[2].replace("[", "").split(",")[0].split("-")[0]
    restart_node(loop, place)


def scancel(loop: Loop, rng: random.Random) -> None:
    loop.call("scancel", rng.choice(running(loop))[0])


def sigkill(loop: Loop, rng: random.Random) -> None:
    wanted, found = f"SLURM_CONF={loop.env['SLURM_CONF']}".encode(), []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words, env = (place / "cmdline").read_bytes(), (place / "environ").read_bytes().split(b"\0")
            if wanted in env and any(worker in words for worker in WORKERS) and b"SLURM_JOB_ID=" in b"\n".join(env):
                found.append(int(place.name))
    os.kill(rng.choice(sorted(found)), signal.SIGKILL)


def preempt(loop: Loop, rng: random.Random) -> None:
    urgent = ["--partition=main", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1"]
    name = loop.call("sbatch", "--parsable", *urgent).strip()
    loop.until(lambda: name not in [job[0] for job in loop.jobs()])


def controller(loop: Loop, rng: random.Random) -> None:
    loop.tool("kill-controller")
    time.sleep(rng.uniform(0, 8))
    loop.tool("start-controller")
    loop.until(lambda: subprocess.run(["squeue"], env=loop.env, capture_output=True, check=False).returncode == 0)


def disk(loop: Loop, rng: random.Random) -> None:
    filler = loop.root / "filler"
    with suppress(OSError), filler.open("wb") as f:
        while True:
            f.write(b"0" * 2**16)
    time.sleep(rng.uniform(1, 5))
    filler.unlink()


def limit(loop: Loop, rng: random.Random) -> None:
    """The limit comes near, and is as before for the next attempt."""
    name = rng.choice(running(loop))[0]
    loop.call("scontrol", "update", f"JobId={name}", "TimeLimit=5")
    loop.until(lambda: name not in [job[0] for job in running(loop)])
    with suppress(SystemExit):  # it may have ended
        loop.call("scontrol", "update", f"JobId={name}", "TimeLimit=600")


KINDS: dict[str, Callable[[Loop, random.Random], None]] = {
    f.__name__: f for f in (node, scancel, sigkill, preempt, controller, disk, limit)
}


def attended(loop: Loop) -> bool:
    """Does what people do at a site where nothing runs any more: a controller that was killed may start a job a second time,
    which drains the node and holds the job. Returns whether jobs are held, which a submission releases."""
    for place in loop.call("sinfo", "--noheader", "--partition=main", "--states=drain", "-N", "--format=%N").split():
        loop.call("sh", "-c", f"scontrol update NodeName={place} State=RESUME || true")
    found = loop.call("squeue", "--noheader", "--format=%r|%k").splitlines()
    return any(line.startswith("launch failed requeued held|") and line.endswith(f" {loop.dir}") for line in found)


def finished(loop: Loop) -> bool:
    return all(row["state"] == "done" for row in loop.status().values())


def strike_loop(loop: Loop, rng: random.Random, num: int, pause: tuple[float, float], counts: Counter[str]) -> int:
    """Runs the loop to its end, struck at most `num` times. Returns how often it was."""
    settings = ("cluster.partition=low", "cluster.warning=3000", "cluster.max_replans=3", "cluster.other_nodes=1")
    loop.submit(*settings)
    struck, again = 0, 0
    while True:
        time.sleep(rng.uniform(*pause))
        if not running(loop) and attended(loop):
            loop.submit(*settings)
        if not [job for job in loop.jobs() if f" {loop.dir}" in job[3]]:
            if finished(loop):
                return struck
            again += 1
            assert again < 5 * num + 20, f"submitted {again} times\n{loop.status_table()}"
            loop.submit(*settings)
        elif struck < num and running(loop):
            kind = rng.choice([name for name in KINDS if name != "disk" or loop.root.is_mount()])
            with suppress(IndexError):  # what was running has just ended
                KINDS[kind](loop, rng)
                struck += 1
                counts[kind] += 1
                print(f"-- {loop.name}: strike {struck}: {kind}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strikes", type=int, default=200)
    parser.add_argument("--per-loop", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, nargs=2, default=(2.0, 20.0), metavar=("LOW", "HIGH"))
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        print("skipped: no Slurm on this machine")
        return 0
    total, toy = (2, True) if args.quick else (args.strikes, args.toy)
    cluster, root = (Path(tempfile.mkdtemp(prefix=f"srlm-{name}-", dir="/tmp")) for name in ("c", "strikes"))
    if os.geteuid() == 0:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK if toy else '4g'}", "none", str(root)], check=False)
    kind, fixed = (Toy, tuple(args.overrides)) if toy else (Loop, (*SMALL, *args.overrides))
    rng, counts, struck, loops, wrong = random.Random(args.seed), Counter[str](), 0, 0, 0
    loop = kind(cluster, root, "undisturbed", fixed)
    loop.tool("start")
    try:
        undisturbed(loop)
        wanted = digests(loop.dir)
        print(f"undisturbed: {len(wanted)} files", file=sys.stderr, flush=True)
        while struck < total:
            loop = kind(cluster, root, f"struck{loops}", fixed)
            before = counts.copy()
            done = strike_loop(loop, rng, min(args.per_loop, total - struck), tuple(args.pause), counts)
            found = digests(loop.dir)
            differ = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
            kinds = ", ".join(f"{n} {name}" for name, n in (counts - before).items())
            print(f"| {done} strikes: {kinds} | {len(differ)} of {len(wanted)} files differ |", flush=True)
            struck, loops, wrong = struck + done, loops + 1, wrong + bool(differ)
            if differ:
                print("\n".join(differ), file=sys.stderr, flush=True)
                break  # what differs is kept
            shutil.rmtree(loop.dir)
        print(f"| all: {struck} strikes in {loops} loops: {dict(counts)} | {wrong} loops differ |", flush=True)
    finally:
        loop.tool("stop")
        if not wrong:
            shutil.rmtree(cluster, ignore_errors=True)
            if root.is_mount():
                subprocess.run(["umount", "-l", str(root)], check=False)
            shutil.rmtree(root, ignore_errors=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
