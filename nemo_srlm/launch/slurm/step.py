"""One attempt at a job's work on one node: starts the worker, watches it, and says how it ended.

    python -m nemo_srlm.launch.slurm.step JOB_DIR             the work: torchrun's share of this node, or an item worker
    python -m nemo_srlm.launch.slurm.step JOB_DIR --finish    the manifest, after every shard or rank

Run by slurm/stage.sh under srun, inside the container where there is one. How it ended stands in JOB_DIR/outcome-*,
because srun's exit code is the highest of all tasks and tells a crash from a kill by nobody.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from nemo_srlm.config.compose import load_resolved_config
from nemo_srlm.core import files, manifest, process
from nemo_srlm.core import stage as stages
from nemo_srlm.core.stage import EXIT_AGAIN, Ref
from nemo_srlm.errors import UserError
from nemo_srlm.launch.slurm.jobs import config_digest
from nemo_srlm.launch.worker import EXIT_USER, parse_ref, write_error
from nemo_srlm.stages import load
from nemo_srlm.train.stop_conditions import STOP_FILE

POLL = 0.5  # seconds between two looks at the worker
DUMP_SECONDS = 5.0  # that a hung process gets to write its stacks
STOP_SECONDS = 20.0  # that an item worker gets after SIGTERM; what it has in flight is done again


@dataclass(frozen=True)
class Attempt:
    """What stage.sh says about this attempt (environment)."""

    name: str  # 12_3.0: job, restart count, and .rN for a retry in the same job
    shard: int
    node: int
    head: str  # host of node 0
    port: int
    owner: Path  # names the attempt that may write
    stop: Path  # when this file appears: save and leave

    @classmethod
    def from_environment(cls) -> "Attempt":
        env = os.environ
        return cls(
            env["NEMO_SRLM_ATTEMPT"], int(env["NEMO_SRLM_SHARD"]), int(env["SLURM_NODEID"]), env["NEMO_SRLM_HEAD"],
            int(env["NEMO_SRLM_PORT"]), Path(env["NEMO_SRLM_OWNER_FILE"]), Path(env["NEMO_SRLM_STOP_FILE"]),
        )  # fmt: skip


def shard_mark(run_dir: Path, ref: Ref, shard: int, num_shards: int) -> Path:
    """Present when a shard's items are complete. It lies in the stage's directory and goes when that is removed."""
    return stages.stage_directory(run_dir, ref) / "logs" / f"shard-{shard:05d}-of-{num_shards:05d}"


def done_shards(run_dir: Path, ref: Ref, num_shards: int) -> set[int]:
    return {k for k in range(num_shards) if shard_mark(run_dir, ref, k, num_shards).exists()}


def command(job: dict[str, Any], attempt: Attempt) -> tuple[list[str], dict[str, str]]:
    """The worker's command line and what it finds in its environment."""
    env = {
        "NEMO_SRLM_PARENT": str(os.getpid()), "NEMO_SRLM_STOP_FILE": str(attempt.stop),
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # SIGABRT writes every thread's stack before it kills
    }  # fmt: skip
    if job["kind"] != "train":
        shard = ["--shard", f"{attempt.shard}/{job['num_shards']}"]
        return [sys.executable, *job["worker"], job["run_dir"], *job["refs"], *shard], env
    ref = parse_ref(job["refs"][0])
    env |= {
        "OMP_NUM_THREADS": str(job["threads"]), "NEMO_SRLM_RUN_DIR": job["run_dir"],
        "NEMO_SRLM_STAGE": ref.stage, "NEMO_SRLM_ITERATION": str(ref.iteration),
    }  # fmt: skip
    launch = [
        sys.executable, *job["launcher"], "--nnodes", str(job["nodes"]), "--node-rank", str(attempt.node),
        "--nproc-per-node", str(job["processes"]), "--master-addr", attempt.head, "--master-port", str(attempt.port),
    ]  # fmt: skip
    return [*launch, *job["trainer"], "--config-path", job["run_dir"], "--config-name", "config"], env


def generations(pid: int) -> list[list[int]]:
    """`pid` and the living processes below it, one list per generation, the youngest first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")[2].split()
            except OSError:
                continue  # it ended while we looked
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [[pid]]
    while below := [c for p in found[-1] for c in children.get(p, [])]:
        found.append(below)
    return found[::-1]


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


class HangDetector:
    """How long nothing has moved, and how long that may last in the present phase.

    Set-up lasts until a stage's first item or step of this attempt: stages say how much is done before they load a model.
    """

    def __init__(self, job: dict[str, Any], shard: int) -> None:
        self.run_dir, self.limits = Path(job["run_dir"]), job["hang"]
        self.refs = [parse_ref(r) for r in job["refs"]]
        self.file = "progress.json" if shard == 0 else f"progress-{shard:05d}.json"
        self.ref, self.phase, self.since = self.refs[0], "setup", time.monotonic()
        self.progress = self._read()
        self.first = self.progress

    def _read(self) -> dict[str, Any] | None:
        try:
            text = (stages.stage_directory(self.run_dir, self.ref) / self.file).read_text(encoding="utf-8")
            found: dict[str, Any] = json.loads(text)
        except (OSError, json.JSONDecodeError):
            return None  # none yet, or it is being replaced this moment
        return found

    def _look(self) -> None:
        now = time.monotonic()
        done = (stages.stage_directory(self.run_dir, self.ref) / manifest.NAME).exists()
        if done and self.ref != self.refs[-1]:
            self.ref = self.refs[self.refs.index(self.ref) + 1]
            self.phase, self.since = "setup", now
            self.progress = self.first = self._read()
            return
        found = self._read()
        if found is None or (self.progress is not None and found["updated"] == self.progress["updated"]):
            return
        self.first, self.progress, self.since = self.first or found, found, now
        if found["done"] >= found["total"] or found["info"].get("phase") == "save":
            self.phase = "save"
        else:
            self.phase = "setup" if found["done"] == self.first["done"] else "work"

    def stuck(self) -> str:
        """Why the attempt counts as hung; "" while it does not."""
        self._look()
        limit, still = self.limits[self.phase], time.monotonic() - self.since
        if limit and still > limit:
            return f"no progress for {still:.0f} s in {self.ref} (phase {self.phase}, limit {limit} s)"
        return ""


class WorkerSupervisor:
    """The worker of this node, from its start to the word for its end."""

    def __init__(self, job: dict[str, Any], attempt: Attempt) -> None:
        self.job, self.attempt = job, attempt
        self.terminated = False
        signal.signal(signal.SIGTERM, self._on_term)

    def _on_term(self, number: int, frame: object) -> None:
        """Preemption, requeue or cancellation: this comes to the steps first, before the batch script knows."""
        self.terminated = True
        self.attempt.stop.touch()

    def fenced(self) -> bool:
        try:
            owner = self.attempt.owner.read_text(encoding="utf-8").strip()
        except OSError:
            return False  # a file system that stutters is no later attempt
        return owner != self.attempt.name.partition(".r")[0]

    def training_stop(self) -> Path:
        """The trainer's own stop file. Its launcher removes it at the start, so it is touched again and again."""
        return stages.stage_directory(Path(self.job["run_dir"]), parse_ref(self.job["refs"][0])) / "stop"

    def run(self) -> tuple[str, str]:
        """(done | again | stopped | signalled | fenced | user | hung | crashed, detail)."""
        words, env = command(self.job, self.attempt)
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, env={**os.environ, **env}, preexec_fn=prepare_child)  # noqa: PLW1509
        watch, asked = HangDetector(self.job, self.attempt.shard), 0.0
        while child.poll() is None:
            time.sleep(POLL)
            if self.fenced():
                kill(child)
                return "fenced", "a later attempt has taken over"
            if self.attempt.stop.exists():
                if self.job["kind"] == "train":
                    self.training_stop().touch()  # its ranks look there each step, save, and leave together
                elif not asked:
                    asked = time.monotonic()
                    child.terminate()
                elif time.monotonic() - asked > STOP_SECONDS:
                    kill(child)
            elif why := watch.stuck():
                dump(child)
                return "hung", f"{why}; the stacks are in the log"
        if self.job["kind"] == "train":
            self.training_stop().unlink(missing_ok=True)
        return self.meaning(child.returncode)

    def meaning(self, code: int) -> tuple[str, str]:
        words = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if code == 0:
            return "done", ""
        if self.terminated:
            return "signalled", words
        if code == EXIT_AGAIN:
            return "again", "saved and left"
        if self.attempt.stop.exists():
            return "stopped", words
        return ("user" if code == EXIT_USER else "crashed"), words


def prepare_child() -> None:
    process.die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def kill(child: "subprocess.Popen[bytes]") -> None:
    for pids in generations(child.pid):
        send(pids, signal.SIGKILL)
    child.wait()


def dump(child: "subprocess.Popen[bytes]") -> None:
    """Has every process below write its stacks and ends them, the youngest first: a worker dies with its launcher."""
    print(f"--- hung: the stacks of {child.pid} and what it started", file=sys.stderr, flush=True)
    for pids in generations(child.pid):
        send(pids, signal.SIGABRT)
        deadline = time.monotonic() + DUMP_SECONDS
        while child.poll() is None and time.monotonic() < deadline:
            if set(pids).isdisjoint(chain.from_iterable(generations(child.pid))):
                break
            time.sleep(0.1)
    kill(child)


def work(job: dict[str, Any], attempt: Attempt) -> tuple[str, str]:
    run_dir, refs = Path(job["run_dir"]), [parse_ref(r) for r in job["refs"]]
    cfg = load_resolved_config(run_dir)
    found = config_digest(cfg)
    if found != job["config"]:
        raise UserError(
            run_dir / "config.yaml", f"changed since this job was submitted (fingerprint {found})",
            f"fingerprint {job['config']}", "cancel the jobs (`nemo-srlm cancel`) and submit again",
        )  # fmt: skip
    if (run_dir / STOP_FILE).exists():  # made by people: being requeued would only find it again
        raise UserError(run_dir / STOP_FILE, "is there", remedy="remove it and submit again")
    sharded = job["num_shards"] > 1
    if attempt.node == 0:
        for ref in refs:
            (stages.stage_directory(run_dir, ref) / "logs" / "error").unlink(missing_ok=True)
    if job["kind"] == "train" or sharded:
        (ref,) = refs
        stage = load(ref.stage)
        if stages.state(stage, cfg, ref.iteration, run_dir) == "done":
            return "done", "was done already"
        if attempt.node == 0:
            stages.begin(stage, cfg, ref.iteration, run_dir)
    outcome = WorkerSupervisor(job, attempt).run()
    if outcome[0] == "done" and sharded:
        shard_mark(run_dir, ref, attempt.shard, job["num_shards"]).touch()
    return outcome


def finish(job: dict[str, Any]) -> tuple[str, str]:
    """Writes the manifest. What is missing is named, and the marks go, so that the next submission looks again."""
    run_dir = Path(job["run_dir"])
    ref = parse_ref(job["refs"][0])
    cfg, stage = load_resolved_config(run_dir), load(ref.stage)
    if stages.state(stage, cfg, ref.iteration, run_dir) == "done":
        return "done", "was done already"
    try:
        done = stages.finish(stage, stages.context(run_dir, stage, cfg, ref.iteration), run_dir)
    except UserError:
        for shard in range(job["num_shards"]):
            shard_mark(run_dir, ref, shard, job["num_shards"]).unlink(missing_ok=True)
        raise
    (stages.stage_directory(run_dir, ref) / "logs" / "error").unlink(missing_ok=True)
    return "done", str(done.metrics.get("summary", ""))


def reason(run_dir: Path, refs: list[Ref], detail: str) -> str:
    """The worker's own word for its failure, where it left one."""
    for ref in refs:
        path = stages.stage_directory(run_dir, ref) / "logs" / "error"
        if path.exists():
            return path.read_text(encoding="utf-8").splitlines()[0]
    return detail


def main() -> int:
    parser = argparse.ArgumentParser(prog="nemo_srlm.launch.slurm.step")
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--finish", action="store_true")
    args = parser.parse_args()
    job, attempt = json.loads((args.job_dir / "job.json").read_text(encoding="utf-8")), Attempt.from_environment()
    run_dir, refs = Path(job["run_dir"]), [parse_ref(r) for r in job["refs"]]
    try:
        word, detail = finish(job) if args.finish else work(job, attempt)
    except UserError as error:
        word, detail = "user", str(error)
        write_error(run_dir, refs[0], detail)
        print(f"error: {error}", file=sys.stderr)
    if word in ("user", "crashed", "hung"):
        detail = reason(run_dir, refs, detail)
    outcome = args.job_dir / f"outcome-{attempt.shard}-{attempt.node}"
    files.write_atomic(outcome, f"{attempt.name}\t{word}\t{' '.join(detail.split())}\n")
    return {"done": 0, "user": EXIT_USER, "again": EXIT_AGAIN}.get(word, 1)


if __name__ == "__main__":
    sys.exit(main())
