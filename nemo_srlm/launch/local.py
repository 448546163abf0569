"""Runs what remains of a run on this machine: a worker process per step, a live picture, one clear end."""

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

from nemo_srlm.config.compose import save_resolved_config
from nemo_srlm.config.schema import Config
from nemo_srlm.core import process
from nemo_srlm.core import stage as stages
from nemo_srlm.core.manifest import read as read_manifest
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.stage import EXIT_AGAIN, Ref, run_directory, stage_directory
from nemo_srlm.errors import UserError, of_system
from nemo_srlm.launch.plan import Step, fuse, is_done, remaining
from nemo_srlm.launch.replicas import gpus_of, num_replicas, visible_gpus
from nemo_srlm.launch.slurm.submit import refuse_if_active
from nemo_srlm.report.display import Display, duration
from nemo_srlm.stages import load
from nemo_srlm.train.stop_conditions import STARTED, STOP_FILE, limits

BEGAN = time.time()  # a time budget counts from here
POLL = 0.2  # seconds between two looks at the workers
GRACE = 60.0  # seconds that an interrupted training may take to save
MAX_AGAIN = 20  # times that one step may save and leave before its end


class StageFailed(Exception):
    """A worker ended with an error; the message says why and where its log is."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """One `run` at a time in a run directory. The lock is the kernel's: it is gone when the process is."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                run_dir,
                "another `nemo-srlm run` is at work here",
                remedy="wait for it, or look with `nemo-srlm status`",
            ) from error
        yield


def command_for(cfg: Config, run_dir: Path, step: Step, shard: int) -> tuple[list[str], dict[str, str]]:
    """The worker's command line and environment."""
    env = {"NEMO_SRLM_PARENT": str(os.getpid()), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if step.kind == "train":
        (ref,) = step.refs
        env |= {
            "OMP_NUM_THREADS": str(cfg.parallel.threads),
            "NEMO_SRLM_RUN_DIR": str(run_dir.resolve()),
            "NEMO_SRLM_STAGE": ref.stage,
            "NEMO_SRLM_ITERATION": str(ref.iteration),
            STARTED: str(BEGAN),
        }
        launcher = [
            sys.executable,
            "-m",
            "nemo_srlm.launch.torchrun",
            "--standalone",
            "--nproc-per-node",
            str(cfg.parallel.processes),
        ]
        return [
            *launcher,
            "-m",
            "nemo_srlm.launch.train_worker",
            "--config-path",
            str(run_dir.resolve()),
            "--config-name",
            "config",
        ], env
    if step.kind == "generate" and step.num_shards > 1:  # shards run side by side here: each has GPUs of its own
        (ref,) = step.refs
        each = num_replicas(load(ref.stage), cfg) * cfg.generate.tensor_parallel
        env |= {} if ref.stage in cfg.api.stages else gpus_of(shard, step.num_shards, each, visible_gpus())
    command = [sys.executable, "-m", "nemo_srlm.launch.worker", str(run_dir), *map(str, step.refs)]
    return [*command, "--shard", f"{shard}/{step.num_shards}"], env


def current(run_dir: Path, step: Step) -> Ref:
    return next((ref for ref in step.refs if not is_done(run_dir, ref)), step.refs[-1])


def log_path(run_dir: Path, step: Step, shard: int) -> Path:
    """Of the run, not of a stage: a step may hold several stages, and some may turn out to be links."""
    first = step.refs[0]
    shards = "" if step.num_shards == 1 else f".{shard:05d}"
    return run_dir / "logs" / f"iter{first.iteration}-{first.stage}{shards}.log"


def failure(run_dir: Path, step: Step, code: int, log: Path) -> StageFailed:
    ref = current(run_dir, step)
    reason = stage_directory(run_dir, ref) / "logs" / "error"
    said = reason.read_text(encoding="utf-8") if reason.exists() else ""
    full = None if said else of_system(None, run_dir)  # then it could not write its reason down
    words = said or str(full or f"exit code {code}; the end of its log:\n{process.tail(log)}")
    return StageFailed(f"{ref} failed: {words}\n  log: {log}", 2 if code == 2 or full else 1)


def run_workers(cfg: Config, run_dir: Path, step: Step, display: Display, done: int) -> int:
    """Starts the step's workers and waits. Returns the first bad exit code, or 0. Stops them when interrupted."""
    since = time.time()
    for ref in step.refs:
        (stage_directory(run_dir, ref) / "logs" / "error").unlink(missing_ok=True)
    workers: list[Popen[bytes]] = []
    try:
        for shard in range(step.num_shards):
            command, env = command_for(cfg, run_dir, step, shard)
            workers.append(process.start(command, log_path(run_dir, step, shard), env))
        seen: set[Ref] = set()
        begun = since
        while True:
            codes = [w.poll() for w in workers]
            for ref in step.refs:
                if ref not in seen and is_done(run_dir, ref):
                    seen.add(ref)
                    if step.kind != "train" and step.num_shards == 1:
                        announce(run_dir, ref, display, time.time() - begun)
                        begun = time.time()
            ref = current(run_dir, step)
            display.show(ref, stage_directory(run_dir, ref), begun, done + len(seen))
            bad = [c for c in codes if c]
            if bad:
                return bad[0]
            if all(c == 0 for c in codes):
                return 0
            time.sleep(POLL)
    finally:
        for worker in workers:
            if worker.poll() is None:
                process.stop(worker, GRACE)


def announce(run_dir: Path, ref: Ref, display: Display, seconds: float) -> None:
    found = read_manifest(stage_directory(run_dir, ref))
    summary = found.metrics.get("summary", "") if found else ""
    display.line(f"  {'done':6} {ref!s:32} {duration(seconds):>7}  {summary}")


def out_of_time(cfg: Config, run_dir: Path) -> str:
    """Why a training that has saved and left is not started again at once; "" where it is."""
    if (run_dir / STOP_FILE).exists():
        return f"{run_dir / STOP_FILE} exists"
    return limits(os.environ, BEGAN, cfg.run.time_budget, cfg.cluster.warning).why


def run_step(cfg: Config, run_dir: Path, step: Step, display: Display, done: int) -> None:
    """Runs one step to its manifests. Raises StageFailed."""
    started = time.time()
    own_finish = step.kind == "train" or step.num_shards > 1
    if own_finish:
        (ref,) = step.refs
        stage = load(ref.stage)
        if stages.ready(stage, cfg, ref.iteration, run_dir):
            display.line(f"  {'linked':6} {ref}")
            return
        stages.begin(stage, cfg, ref.iteration, run_dir)
    for _ in range(MAX_AGAIN):
        code = run_workers(cfg, run_dir, step, display, done)
        if code != EXIT_AGAIN:
            break
        if why := out_of_time(cfg, run_dir):
            raise StageFailed(f"{step.refs[0]} has saved and stopped: {why}", EXIT_AGAIN)
    if code:
        raise failure(run_dir, step, code, log_path(run_dir, step, 0))
    if own_finish:
        stages.finish(stage, stages.context(run_dir, stage, cfg, ref.iteration), run_dir)
        announce(run_dir, ref, display, time.time() - started)


def run(cfg: Config, until: str = "") -> Path:
    """Runs everything that remains (up to the stage named `until`). Returns the run directory.

    Raises StaleError before anything is started when finished work was made under other settings, StageFailed when a
    worker fails, KeyboardInterrupt after the workers have been stopped.
    """
    run_dir = run_directory(cfg)
    with locked(run_dir):
        refuse_if_active(run_dir)
        (run_dir / STOP_FILE).unlink(missing_ok=True)
        todo = remaining(cfg, run_dir)
        save_resolved_config(cfg, run_dir)
        total = len(pipeline(cfg))
        done = total - len(todo)
        if until:
            names = [i for i, ref in enumerate(todo) if ref.stage == until]
            todo = todo[: names[0] + 1] if names else []
        with Display(total) as display:
            if not todo:
                what = f"everything up to {until} is done" if until else f"all of its {total} stages are done"
                display.line(f"{run_dir} is up to date: {what}.")
                return run_dir
            display.line(f"{run_dir}: {done} of {total} stages are done, {len(todo)} to go.")
            for step in fuse(cfg, todo):
                run_step(cfg, run_dir, step, display, done)
                done += len(step.refs)
    return run_dir
