"""One attempt at a job's work on one node: starts the worker, supervises it, and writes down how it ended.

    python -m nemo_srlm.launch.slurm.step JOB_DIR             the work: this node's training ranks, or an item worker
    python -m nemo_srlm.launch.slurm.step JOB_DIR --finish    the manifest, after every shard or rank
    python -m nemo_srlm.launch.slurm.step JOB_DIR --check     whether this node has what a kind of stage needs

Run by slurm/stage.sh under srun, inside the container where there is one. How the attempt ended is written to
JOB_DIR/outcome-*: srun's exit code is the highest of all tasks and does not tell a crash from a kill.
"""

import argparse
import os
import resource
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, Popen

from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.config.compose import load_resolved_config
from nemo_srlm.config.shipped import PACKAGE, job_directory
from nemo_srlm.core import process
from nemo_srlm.core import stage as stages
from nemo_srlm.core.commands import about
from nemo_srlm.core.control import clear_error, read_error, read_stopped, stop_file
from nemo_srlm.core.process_tree import dump, kill
from nemo_srlm.core.stage import stage_directory
from nemo_srlm.core.terminal import say
from nemo_srlm.errors import UserError, of_system
from nemo_srlm.launch import contract
from nemo_srlm.launch.contract import EXIT_AGAIN, EXIT_DONE, EXIT_FAILED, EXIT_USER, Work
from nemo_srlm.launch.plan import is_done
from nemo_srlm.launch.slurm.hang_detector import HangDetector
from nemo_srlm.launch.slurm.lease import Lease
from nemo_srlm.launch.slurm.node import caches, check_node, oom_kills
from nemo_srlm.launch.slurm.sbatch import PASSED, JobSettings, config_digest
from nemo_srlm.launch.slurm.shards import shard_mark
from nemo_srlm.stages import load

FENCED = ("fenced", "a later attempt has taken over")
POLL = 0.5  # seconds between two looks at the worker
OUT_OF_MEMORY = "out of memory: the kernel killed a process of the job"
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
    stop: Path  # when this file appears: save and exit

    @classmethod
    def from_environment(cls) -> "Attempt":
        env = os.environ
        return cls(
            env["NEMO_SRLM_ATTEMPT"], int(env["NEMO_SRLM_SHARD"]), int(env["SLURM_NODEID"]), env["NEMO_SRLM_HEAD"],
            int(env["NEMO_SRLM_PORT"]), Path(env["NEMO_SRLM_OWNER_FILE"]), Path(env["NEMO_SRLM_STOP_FILE"]),
        )  # fmt: skip

    @property
    def owner_name(self) -> str:
        """How the owner file names this attempt and its retries."""
        return self.name.partition(".r")[0]

    def fenced(self) -> bool:
        """Whether a later attempt owns the shard."""
        try:
            owner = self.owner.read_text(encoding="utf-8").strip()
        except OSError:
            return False  # a file system that stutters is no later attempt
        return owner != self.owner_name


def command(job: JobSettings, attempt: Attempt) -> tuple[list[str], dict[str, str]]:
    """The worker's command line and environment."""
    # PYTHONFAULTHANDLER: SIGABRT writes every thread's stack before it kills
    env = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"} | caches(job.cache, os.environ) | code_environment()
    work = Work(job.path, job.stages, attempt.shard, job.num_shards)
    if job.kind != "train":
        return contract.command(work), env | contract.environment()
    env |= contract.allocator(job.expandable_segments)
    flags = [
        "--nnodes", str(job.nodes), "--node-rank", str(attempt.node), "--nproc-per-node", str(job.processes),
        "--master-addr", attempt.head, "--master-port", str(attempt.port),
    ]  # fmt: skip
    return contract.training_command(work, flags), env | contract.training_environment(job.threads)


def code_environment() -> dict[str, str]:
    """Has the worker import the package from where this process does, though it works in the checkout."""
    if PACKAGE.parent == job_directory():
        return {}
    before = os.environ.get("PYTHONPATH", "")
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": f"{PACKAGE.parent}{os.pathsep + before if before else ''}"}


def prepare_child(parent: int) -> None:
    process.die_with_parent(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class WorkerSupervisor:
    """The worker of this node, from its start to the outcome."""

    def __init__(self, job: JobSettings, attempt: Attempt) -> None:
        self.job, self.attempt = job, attempt
        # the training's own stop file; torchrun.py removes it when it starts, so it is touched again and again
        self.training_stop = stop_file(stage_directory(job.path, job.stages[0])) if job.kind == "train" else None
        self.terminated = False
        signal.signal(signal.SIGTERM, self._on_term)

    def _on_term(self, number: int, frame: object) -> None:
        """Preemption, requeue or cancellation: SIGTERM comes to the steps before the batch script."""
        self.terminated = True
        self.attempt.stop.touch()

    def run(self) -> tuple[str, str]:
        """(done | again | stopped | signalled | fenced | user | hung | crashed, detail)."""
        words, env = command(self.job, self.attempt)
        killed_before = oom_kills()
        child = Popen(words, stdin=DEVNULL, env={**os.environ, **env}, preexec_fn=partial(prepare_child, os.getpid()))  # noqa: PLW1509
        detector = HangDetector(self.job.path, self.job.stages, self.job.hang, self.attempt.shard)
        asked = 0.0
        while child.poll() is None:
            time.sleep(POLL)
            if self.attempt.fenced():
                kill(child)
                return FENCED
            if self.attempt.stop.exists():
                if self.training_stop:
                    self.training_stop.touch()  # the ranks look there each step, save, and exit together
                elif not asked:
                    asked = time.monotonic()
                    child.terminate()
                elif time.monotonic() - asked > STOP_SECONDS:
                    kill(child)
            elif reason := detector.reason():
                dump(child)
                return "hung", f"{reason}; the stacks are in the log"
        if self.training_stop:
            self.training_stop.unlink(missing_ok=True)
        return self.outcome(child.returncode, oom_kills() > killed_before)

    def outcome(self, code: int, out_of_memory: bool) -> tuple[str, str]:
        """What the worker's exit code means here."""
        words = process.ending(code)
        if code != EXIT_DONE and out_of_memory:
            return "crashed", f"{OUT_OF_MEMORY} ({words}); ask for more with cluster.{self.job.kind}.memory"
        if code == EXIT_DONE:
            whole = self.job.kind != "train" and self.job.num_shards == 1  # else this job makes no manifest
            left = [ref for ref in self.job.stages if whole and not is_done(self.job.path, ref)]
            return ("crashed", f"{words} before {left[0]} was done") if left else ("done", "")
        if self.terminated:
            return "signalled", words
        if code == EXIT_AGAIN:
            why = read_stopped(stage_directory(self.job.path, self.job.stages[0]))
            return "again", f"saved and exited: {why}" if why else "saved and exited"
        if self.attempt.stop.exists():
            return "stopped", words
        return ("user" if code == EXIT_USER else "crashed"), words


def work(job: JobSettings, attempt: Attempt) -> tuple[str, str]:
    run_dir = job.path
    if attempt.fenced():  # lost while its container was starting
        return FENCED
    cfg = load_resolved_config(run_dir)
    found = config_digest(cfg)
    if found != job.config:
        raise UserError(
            run_dir / "config.yaml", f"changed since this job was submitted (fingerprint {found})",
            f"fingerprint {job.config}", f"cancel the jobs (`{about('cancel', run_dir)}`) and submit again",
        )  # fmt: skip
    if stop_file(run_dir).exists():  # made by people: a requeued job would only find it again
        raise UserError(stop_file(run_dir), "the stop file exists", remedy="remove it and submit again")
    sharded = job.num_shards > 1
    if attempt.node == 0:
        for ref in job.stages:
            clear_error(stage_directory(run_dir, ref))
    if job.kind == "train" or sharded:
        (ref,) = job.stages
        stage = load(ref.stage)
        if stages.state(stage, cfg, ref.iteration, run_dir) == "done":
            return "done", "was done already"
        if attempt.node == 0:
            stages.begin(stage, cfg, ref.iteration, run_dir)
    outcome = WorkerSupervisor(job, attempt).run()
    if outcome[0] == "done" and sharded:
        shard_mark(run_dir, ref, attempt.shard, job.num_shards).touch()
    return outcome


def finish(job: JobSettings) -> tuple[str, str]:
    """Writes the manifest. What is missing is named, and the shards' marks are removed: the next submission looks again."""
    run_dir, ref = job.path, job.stages[0]
    cfg, stage = load_resolved_config(run_dir), load(ref.stage)
    if stages.state(stage, cfg, ref.iteration, run_dir) == "done":
        return "done", "was done already"
    try:
        done = stages.finish(stage, stages.context(run_dir, stage, cfg, ref.iteration), run_dir)
    except UserError:
        for shard in range(job.num_shards):
            shard_mark(run_dir, ref, shard, job.num_shards).unlink(missing_ok=True)
        raise
    clear_error(stage_directory(run_dir, ref))
    return "done", str(done.metrics.get("summary", ""))


def check(job: JobSettings, job_dir: Path) -> tuple[str, str]:
    """Writes down that the nodes of this kind are in order. Raises UserError otherwise."""
    check_node(load_resolved_config(job.path), job.path, job.kind, job.gpus)
    write_atomic(job_dir / PASSED, job.checked)
    return "done", f"the nodes for {job.kind} have what it needs"


def detail_of(job: JobSettings, detail: str) -> str:
    """The first line of the worker's error file, where there is one, else `detail`. What the kernel did comes first."""
    errors = [error for ref in job.stages if (error := read_error(stage_directory(job.path, ref)))]
    return errors[0].splitlines()[0] if errors and not detail.startswith(OUT_OF_MEMORY) else detail


def result(args: argparse.Namespace, job: JobSettings, attempt: Attempt) -> tuple[str, str]:
    """How the attempt ended, and the detail. What was raised is written down, and printed."""
    try:
        if args.check:
            return check(job, args.job_dir)
        if args.finish:
            return FENCED if attempt.fenced() else finish(job)
        return work(job, attempt)
    except Exception as error:
        ref = job.stages[0]
        directory = args.job_dir if args.check else stage_directory(job.path, ref)  # a check fails, not a stage
        try:
            return "user", str(contract.record_failure(error, ref, directory))
        except Exception as unwritten:
            traceback.print_exception(unwritten)
            return "crashed", str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def report(args: argparse.Namespace, job: JobSettings, attempt: Attempt, word: str, detail: str) -> int:
    """Writes down how the attempt ended; the exit code of the step."""
    if word in ("user", "crashed", "hung") and not args.check:
        detail = detail_of(job, detail)
    outcome = args.job_dir / f"outcome-{attempt.shard}-{attempt.node}"
    try:
        write_atomic(outcome, f"{attempt.name}\t{word}\t{' '.join(detail.split())}\n")
    except OSError as error:
        say(f"{of_system(error, outcome) or error}; it had ended: {word}: {detail}", error=True)
        return EXIT_FAILED
    return {"done": EXIT_DONE, "user": EXIT_USER, "again": EXIT_AGAIN}.get(word, EXIT_FAILED)


def main() -> int:
    parser = argparse.ArgumentParser(prog="nemo_srlm.launch.slurm.step")
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--finish", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    job, attempt = JobSettings.read(args.job_dir), Attempt.from_environment()
    os.chdir(job_directory())  # paths of the config may be relative to it; it was started where the package lies
    with Lease(args.job_dir.resolve(), attempt.shard, attempt.node, attempt.owner_name):
        word, detail = result(args, job, attempt)
        return report(args, job, attempt, word, detail)


if __name__ == "__main__":
    sys.exit(main())
