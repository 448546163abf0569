"""Checks that cluster failures do not change a run: the tiny loop on Slurm with node failures, preemption, crashes, ...

    tools/bench/slurm_disturb.py [--cases NAME ...] [key=value ...]

Starts a temporary Slurm with two nodes and runs a small tiny loop (arrays over two nodes, training on both): once
undisturbed, and once for each case below. Compares every JSONL output and every exported weight file by digest with the
undisturbed run. Skipped if Slurm is not installed. --quick: the first two cases.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.bench.kills import digests  # noqa: E402
from tools.bench.slurm_overhead import QUICK  # noqa: E402

SMALL = [*QUICK, "dpo.epochs=20", "world.num_eval_prompts=8"]  # DPO must last until the failure
SHAPE = ["cluster=dev", "parallel.nodes=2", "parallel.processes=1", "candidates.shards=2", "judge.shards=2"]
SILENT = ("socket error", "timed out", "Unable to contact", "Zero Bytes")  # of Slurm's commands
PATIENCE = 1800.0  # seconds for one run
JUDGE, DPO = "iter1/judge", "iter1/dpo"


@dataclass(frozen=True)
class Loop:
    """One run of the tiny loop on the cluster."""

    cluster: Path
    root: Path
    name: str
    overrides: tuple[str, ...]

    @property
    def dir(self) -> Path:
        return self.root / self.name

    @property
    def env(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        # one thread a process: the jobs of two pretended nodes share this machine's cores
        one = {"OMP_NUM_THREADS": "1"}
        return clean | one | {"SLURM_CONF": str(self.cluster / "etc/slurm.conf"), "PYTHON": sys.executable}

    def call(self, *words: str) -> str:
        """Standard output. Asked again while Slurm's commands lose their connection, as they do on a busy machine."""
        for _ in range(10):
            done = subprocess.run(words, cwd=ROOT, env=self.env, capture_output=True, text=True, check=False)
            if not done.returncode or words[0] == "sbatch" or not any(said in done.stderr for said in SILENT):
                break
            time.sleep(2)
        if done.returncode:
            sys.exit(f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def tool(self, verb: str, *words: str) -> None:
        self.call(str(ROOT / "tools/dev_cluster.sh"), verb, str(self.cluster), *words)

    def submission(self, *overrides: str) -> list[str]:
        return [str(ROOT / "slurm/iteration.sh"), *SHAPE, f"run.root={self.root}", f"run.name={self.name}",
                *self.overrides, *overrides]  # fmt: skip

    def submit(self, *overrides: str) -> None:
        self.call("sbatch", "--wait", "--output=/dev/null", *self.submission(*overrides))

    def jobs(self) -> list[list[str]]:
        """[id, state, node, comment] of every queued or running job."""
        out = self.call("squeue", "--noheader", "--array", "--format=%i|%T|%N|%k")
        return [line.split("|", 3) for line in out.splitlines()]

    def until(self, what: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not what():
            if time.monotonic() > end:
                sys.exit(f"{self.name}: waited {PATIENCE:.0f} s\n{self.call('squeue')}\n{self.status_table()}")
            time.sleep(0.3)

    def done(self) -> None:
        self.until(lambda: not self.jobs())

    def items(self, ref: str) -> int:
        return sum(len(p.read_bytes().splitlines()) for p in (self.dir / ref / "parts").glob("*.jsonl"))

    def steps(self, ref: str) -> int:
        path = self.dir / ref / "metrics.jsonl"
        return len(path.read_bytes().splitlines()) if path.exists() else 0

    def node_of(self, ref: str) -> str:
        """The first node on which a job for `ref` runs."""
        for _, state, nodes, comment in self.jobs():
            if state == "RUNNING" and f" {ref} " in comment:
                return nodes.replace("[", "").split(",")[0].split("-")[0]
        sys.exit(f"{self.name}: {ref} was not running at the time of the failure: use a larger world")

    def attempts(self, ref: str) -> list[str]:
        """Events (start, and how it ended) of all attempts of the stage's shards, in the order of the files."""
        folder = self.dir / "slurm" / ref.replace("/", "-")
        return [
            line.split("\t")[3] for p in sorted(folder.glob("attempts-*.tsv")) for line in p.read_text().splitlines()
        ]

    def status(self) -> dict[str, dict[str, str]]:
        found = json.loads(self.call(sys.executable, "-m", "nemo_srlm.cli", "status", "--json", str(self.dir)))
        return {row["stage"]: row for row in found["stages"]}

    def status_table(self) -> str:
        return self.call(sys.executable, "-m", "nemo_srlm.cli", "status", str(self.dir))

    def processes(self, ref: str, shard: int) -> list[int]:
        """Process ids of the stage's workers of one shard (one array task)."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                words, env = (place / "cmdline").read_bytes(), (place / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            wanted = {f"SLURM_CONF={self.env['SLURM_CONF']}".encode(), f"SLURM_ARRAY_TASK_ID={shard}".encode()}
            if wanted <= set(env) and {b"nemo_srlm.launch.worker", ref.encode()} <= set(words.split(b"\0")):
                found.append(int(place.name))
        return found


def kill_node(loop: Loop, ref: str) -> None:
    """Kills the node of a stage: see `restart_node`."""
    restart_node(loop, loop.node_of(ref))


def restart_node(loop: Loop, node: str) -> None:
    """Kills a node with everything on it, marks it down, starts it again and waits until it is up."""
    loop.tool("kill-node", node)
    loop.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=bench")
    time.sleep(3)
    loop.tool("start-node", node)

    def up() -> bool:
        state = loop.call("sinfo", "--noheader", f"--nodes={node}", "--format=%T", "--partition=main")
        if state.startswith("down"):
            loop.call("sh", "-c", f"scontrol update NodeName={node} State=RESUME || true")
        return state.startswith(("idle", "mixed", "alloc", "comp"))

    loop.until(up)


def undisturbed(loop: Loop) -> str:
    loop.submit()
    loop.done()
    return ""


def node_judging(loop: Loop) -> str:
    """a node is killed during judging"""
    loop.submit()
    loop.until(lambda: loop.items(JUDGE) > 2)
    kill_node(loop, JUDGE)
    loop.done()
    return f"{loop.attempts(JUDGE).count('start')} attempts of 2 shards"


def node_training(loop: Loop) -> str:
    """a node is killed during training on two nodes (DPO)"""
    loop.submit()
    loop.until(lambda: loop.steps(DPO) > 2)
    kill_node(loop, DPO)
    loop.done()
    return f"{loop.attempts(DPO).count('start')} attempts"


def preemption(loop: Loop) -> str:
    """preempted by a job that needs both nodes: once during judging, once during DPO"""
    loop.submit("cluster.partition=low")
    for reached in (lambda: loop.items(JUDGE) > 2, lambda: loop.steps(DPO) > 2):
        loop.until(reached)
        urgent = ["--partition=main", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 2"]
        name = loop.call("sbatch", "--parsable", *urgent).strip()
        loop.until(lambda name=name: name not in [job[0] for job in loop.jobs()])
    loop.done()
    missed = "" if loop.attempts(DPO).count("start") > 1 else ": NOT REACHED in dpo: use a larger world"
    return f"{loop.attempts(JUDGE).count('start')} attempts of 2 shards; {loop.attempts(DPO).count('start')} of DPO{missed}"


def time_limit(loop: Loop) -> str:
    """DPO has 2 minutes per attempt and gets the warning signal after 25 s"""
    loop.submit("cluster.warning=95")
    job = next(job for job, _, _, comment in loop.jobs() if f" {DPO} " in comment)
    loop.call("scontrol", "update", f"JobId={job}", "TimeLimit=2")
    loop.done()
    limits = loop.attempts(DPO).count("limit")
    return f"{limits} limits in DPO" if limits else "NOT REACHED in dpo: use a larger world"


def controller(loop: Loop) -> str:
    """the controller is killed during DPO and started again after 10 s"""
    loop.submit()
    loop.until(lambda: loop.steps(DPO) > 2)
    loop.tool("kill-controller")
    time.sleep(10)
    loop.tool("start-controller")
    loop.until(lambda: subprocess.run(["squeue"], env=loop.env, capture_output=True, check=False).returncode == 0)
    loop.done()
    return f"{loop.attempts(DPO).count('start')} attempt of DPO"


def crash(loop: Loop, again: Callable[[], bool]) -> None:
    """Kills shard 1 of the judge stage with SIGKILL, and repeats that while `again()` is true."""
    loop.until(lambda: loop.items(JUDGE) > 1 and loop.processes(JUDGE, 1))
    while True:
        for pid in loop.processes(JUDGE, 1):
            os.kill(pid, signal.SIGKILL)
        if not again():
            return
        time.sleep(0.3)


def shard_once(loop: Loop) -> str:
    """a judging shard crashes once (SIGKILL)"""
    loop.submit()
    crash(loop, lambda: False)
    loop.done()
    return f"attempts ended: {', '.join(e for e in loop.attempts(JUDGE) if e != 'start')}"


def shard_always(loop: Loop) -> str:
    """a judging shard crashes every time; then the cause is removed and the run is submitted again"""
    loop.submit()
    crash(loop, lambda: loop.status()[JUDGE]["state"] not in ("failed", "done"))
    loop.done()
    found = loop.status()
    words, after = found[JUDGE]["words"], found[DPO]
    if found[JUDGE]["state"] != "failed" or after["state"] != "cancelled":
        return f"NOT as expected: judge {found[JUDGE]['state']}, dpo {after['state']}"
    loop.submit()
    loop.done()
    return f'stopped with "{words.split(";")[0]}", dpo "{after["words"]}"; then finished'


def twice(loop: Loop) -> str:
    """submitted twice at the same time"""
    both = [
        subprocess.Popen(loop.submission(), env=loop.env, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [p.communicate(timeout=120)[0] for p in both]
    loop.done()
    submitted = sum("nothing to submit" not in s and "submitted" in s for s in said)
    return f"{submitted} of 2 submitted; {loop.attempts(JUDGE).count('start')} attempts of 2 shards"


CASES = {
    c.__name__: c for c in (node_judging, node_training, preemption, time_limit, controller, shard_once, shard_always,
                            twice)
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="NAME", help=", ".join(CASES))
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args()
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        print("skipped: no Slurm on this machine")
        return 0
    names = args.cases[:2] if args.quick else args.cases
    cluster = Path(tempfile.mkdtemp(prefix="srlm-", dir="/tmp"))
    root = Path(tempfile.mkdtemp(prefix="srlm-disturb-"))
    bad = 0
    loop = Loop(cluster, root, "undisturbed", (*SMALL, *args.overrides))
    loop.tool("start")
    try:
        started = time.monotonic()
        undisturbed(loop)
        wanted = digests(loop.dir)
        print(f"undisturbed: {len(wanted)} files, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        print("| failure | observed | files that differ |\n|---|---|---|")
        for name in names:
            loop, started = Loop(cluster, root, name, (*SMALL, *args.overrides)), time.monotonic()
            seen = CASES[name](loop)
            found = digests(loop.dir)
            differ = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
            print(f"| {CASES[name].__doc__} | {seen} | {len(differ)} of {len(wanted)} |", flush=True)
            print(f"{name}: {time.monotonic() - started:.0f} s {' '.join(differ)}", file=sys.stderr, flush=True)
            bad += bool(differ) or "NOT" in seen
            shutil.rmtree(loop.dir)
    finally:
        loop.tool("stop")
        shutil.rmtree(cluster, ignore_errors=True)
    shutil.rmtree(root, ignore_errors=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
