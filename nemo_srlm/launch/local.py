"""The local launcher: runs the unfinished stages of a run on this machine, one worker process per step and shard."""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

from nemo_srlm.config.compose import save_resolved_config
from nemo_srlm.config.schema import Config
from nemo_srlm.core import process
from nemo_srlm.core import stage as stages
from nemo_srlm.core.control import clear_error, read_error, read_stopped, stop_file
from nemo_srlm.core.manifest import read as read_manifest
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.stage import Ref, run_directory, stage_directory
from nemo_srlm.core.terminal import console, say
from nemo_srlm.errors import ConfigError, UserError, of_system
from nemo_srlm.generate.replicas import gpus_of, usable_gpus
from nemo_srlm.launch import contract
from nemo_srlm.launch.contract import EXIT_AGAIN, EXIT_DONE, EXIT_FAILED, EXIT_USER, Work
from nemo_srlm.launch.gpus import check_gpus, gpus_of_shard
from nemo_srlm.launch.lock import locked
from nemo_srlm.launch.packages import check_packages
from nemo_srlm.launch.plan import Step, check_reuse, check_settings, check_stage, fuse, is_done, remaining, step_of
from nemo_srlm.launch.slurm.submit import refuse_if_active
from nemo_srlm.report.display import Display, duration
from nemo_srlm.report.write import terminal_table
from nemo_srlm.stages import load
from nemo_srlm.train.stop_conditions import STARTED, limits

POLL = 0.2  # seconds between two looks at the workers
GRACE = 60.0  # seconds that an interrupted worker may take to end; a training takes as long as its step
MAX_AGAIN = 20  # times that one step may save and exit before its end


WHAT_NEXT = {  # exit code -> what the user may do
    EXIT_USER: "Running it again without a correction gives the same error. Finished work is kept.",
    EXIT_FAILED: "Finished work is kept: the same command tries this stage again.",
    EXIT_AGAIN: "Run the same command again to resume.",
}


class StageFailed(Exception):
    """A worker ended with an error; the message says why and where its log is. `code`: for the command line."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Session:
    """One call of `nemo-srlm` that runs steps."""

    cfg: Config
    run_dir: Path
    display: Display
    began: float  # seconds since the epoch; run.time_budget counts from here


def command_for(session: Session, step: Step, shard: int) -> tuple[list[str], dict[str, str]]:
    """The worker's command line and environment."""
    cfg, work = session.cfg, Work(session.run_dir, step.refs, shard, step.num_shards)
    if step.kind == "train":
        flags = ["--standalone", "--nproc-per-node", str(cfg.parallel.processes)]
        env = contract.training_environment(cfg.parallel.threads) | {STARTED: str(session.began)}
        return contract.training_command(work, flags), env | contract.allocator(cfg.parallel.expandable_segments)
    env = contract.environment()
    if step.kind == "generate" and step.num_shards > 1:  # shards run side by side here: each has GPUs of its own
        (ref,) = step.refs
        each = gpus_of_shard(ref, cfg)
        env |= gpus_of(shard, step.num_shards, each, usable_gpus()) if each else {}
    return contract.command(work), env


def current(run_dir: Path, step: Step) -> Ref:
    """The stage at which a step is: its first that is not done."""
    return next((ref for ref in step.refs if not is_done(run_dir, ref)), step.refs[-1])


def log_path(run_dir: Path, step: Step, shard: int) -> Path:
    """In the run's directory, not a stage's: a step may hold several stages, and some may turn out to be links."""
    first = step.refs[0]
    shards = "" if step.num_shards == 1 else f".{shard:05d}"
    return run_dir / "logs" / f"iter{first.iteration}-{first.stage}{shards}.log"


def logs(run_dir: Path, ref: Ref) -> list[Path]:
    """Logs of local workers that ran a stage, the oldest first. A log may hold several stages."""
    own = f"iter{ref.iteration}-{ref.stage}."
    found = [
        path
        for path in (run_dir / "logs").glob("*.log")
        if path.name.startswith(own) or f"--- {ref}\n" in path.read_text(encoding="utf-8", errors="replace")
    ]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def failure(run_dir: Path, step: Step, code: int, shard: int = 0) -> StageFailed:
    """What the exit code of a shard's worker means, in the words of the stage's error file where there are some. With code 0 the
    process has ended before the stage was done: a package or the user's code has called os._exit."""
    ref, log = current(run_dir, step), log_path(run_dir, step, shard)
    reason = read_error(stage_directory(run_dir, ref))
    full = None if reason else of_system(None, run_dir)  # a worker on a full disk cannot write its reason
    words = reason or str(full or f"{process.ending(code)}; the end of its log:\n{process.tail(log)}")
    return StageFailed(f"{ref} failed: {words}\n  log: {log}", EXIT_USER if code == EXIT_USER or full else EXIT_FAILED)


def run_workers(session: Session, step: Step, num_done: int) -> tuple[int, int]:
    """Starts the step's workers and waits. Returns (exit code, shard) of the first that failed, or (0, 0). Stops them when
    interrupted."""
    run_dir, began = session.run_dir, time.time()
    for ref in step.refs:
        clear_error(stage_directory(run_dir, ref))
    workers: list[Popen[bytes]] = []
    try:
        for shard in range(step.num_shards):
            command, env = command_for(session, step, shard)
            workers.append(process.start(command, log_path(run_dir, step, shard), env))
        finished: set[Ref] = set()
        while True:
            codes = [worker.poll() for worker in workers]
            for ref in step.refs:
                if ref not in finished and is_done(run_dir, ref):
                    finished.add(ref)
                    if not step.finished_by_launcher:
                        announce(session, ref, time.time() - began)
                        began = time.time()
            ref = current(run_dir, step)
            session.display.show(ref, stage_directory(run_dir, ref), began, num_done + len(finished))
            if bad := [(code, shard) for shard, code in enumerate(codes) if code]:
                return bad[0]
            if all(code == 0 for code in codes):
                return EXIT_DONE, 0
            time.sleep(POLL)
    finally:
        end(session, step, [worker for worker in workers if worker.poll() is None])


def end(session: Session, step: Step, workers: list[Popen[bytes]]) -> None:
    """Stops workers that still run. A training may take as long as its step, after which it saves, or until a second
    interrupt."""
    training = step.kind == "train"
    if training and workers:
        ref = current(session.run_dir, step)
        session.display.line(
            f"  stopping {ref}: it saves at the end of its step. Interrupt again to stop at once, without saving."
        )
    for worker in workers:
        try:
            process.stop(worker, math.inf if training else GRACE)
        except KeyboardInterrupt:
            process.stop(worker, 0.0)


def announce(session: Session, ref: Ref, seconds: float) -> None:
    found = read_manifest(stage_directory(session.run_dir, ref))
    summary = found.metrics.get("summary", "") if found else ""
    session.display.line(f"  {'done':6} {ref!s:32} {duration(seconds):>7}  {summary}")


def stop_reason(session: Session, cause: str) -> str:
    """Why a training that has saved and exited for `cause` is not started again at once; "" where it is, as after a signal."""
    stop = stop_file(session.run_dir)
    if stop.exists():
        return f"{stop} exists"
    end = limits(os.environ, session.began, session.cfg.run.time_budget, session.cfg.cluster.warning)
    return end.why if cause == end.why or time.time() >= end.at else ""


def again_in_vain(ref: Ref, cause: str, log: Path) -> StageFailed:
    """For a training that has saved and exited MAX_AGAIN times, though no stop file and no time limit keeps it from going on."""
    why = cause or "it has written down no reason"
    told = UserError(
        ref, f"it has saved and exited {MAX_AGAIN} times before its end, the last time: {why}", "an attempt that reaches the end",
        "find out what sends its processes SIGTERM or SIGUSR1 or makes its stop file (a scheduler, a supervisor, a script)",
    )  # fmt: skip
    return StageFailed(f"{told}\n  log: {log}", EXIT_AGAIN)


def run_step(session: Session, step: Step, num_done: int) -> None:
    """Runs one step to its manifests. Raises StageFailed."""
    cfg, run_dir, began = session.cfg, session.run_dir, time.time()
    ref, stage = step.refs[0], load(step.refs[0].stage)
    if step.finished_by_launcher:
        if stages.ready(stage, cfg, ref.iteration, run_dir):
            session.display.line(f"  {'linked':6} {ref}")
            return
        stages.begin(stage, cfg, ref.iteration, run_dir)
    for _ in range(MAX_AGAIN):
        code, shard = run_workers(session, step, num_done)
        if code != EXIT_AGAIN:
            break
        cause = read_stopped(stage_directory(run_dir, ref))
        if reason := stop_reason(session, cause):
            raise StageFailed(f"{ref} has saved and stopped: {reason}", EXIT_AGAIN)
    else:
        raise again_in_vain(ref, cause, log_path(run_dir, step, shard))
    if code or (not step.finished_by_launcher and not is_done(run_dir, current(run_dir, step))):
        raise failure(run_dir, step, code, shard)
    if step.finished_by_launcher:
        stages.finish(stage, stages.context(run_dir, stage, cfg, ref.iteration), run_dir)
        announce(session, ref, time.time() - began)


def check_here(cfg: Config, refs: list[Ref]) -> None:
    """Raises UserError where this machine lacks packages or GPUs of the stages, or a training wants several machines."""
    check_packages(cfg, refs)
    # before the GPUs: fewer shards, which a config for several nodes would be asked for, do not make it one for this machine
    if cfg.parallel.nodes > 1 and any(load(ref.stage).kind == "train" for ref in refs):
        raise ConfigError(
            "parallel.nodes", f"{cfg.parallel.nodes} in a run on this machine", "1, or a run on Slurm",
            "set parallel.nodes=1 and a layout for this machine's processes, or submit the run (docs/slurm.md)",
        )  # fmt: skip
    check_gpus(cfg, refs, len(usable_gpus()))


def run(cfg: Config, until: str) -> Path:
    """Runs the unfinished stages (up to the first named `until`). Returns the run directory.

    Raises StaleError before anything is started when finished work was made under other settings, StageFailed when a
    worker fails, KeyboardInterrupt after the workers have been stopped.
    """
    run_dir, began = run_directory(cfg), time.time()
    with locked(run_dir):
        refuse_if_active(run_dir)  # under the lock: before it, jobs could be submitted between check and start
        stop_file(run_dir).unlink(missing_ok=True)
        todo = remaining(cfg, run_dir)
        total = len(pipeline(cfg))
        num_done = total - len(todo)
        if until:
            places = [i for i, ref in enumerate(todo) if ref.stage == until]
            todo = todo[: places[0] + 1] if places else []
        check_here(cfg, todo)
        save_resolved_config(cfg, run_dir)
        with Display(total) as display:
            if not todo:
                what = f"everything up to {until} is done" if until else f"all of its {total} stages are done"
                display.line(f"{run_dir} is up to date: {what}.")
                return run_dir
            display.line(f"{run_dir}: {num_done} of {total} stages are done, {len(todo)} unfinished stages to run.")
            _run_steps(Session(cfg, run_dir, display, began), fuse(cfg, todo), num_done)
    return run_dir


def _run_steps(session: Session, steps: list[Step], num_done: int) -> None:
    """Runs steps in order. Nothing waits for a report: what fails there is raised after the steps behind it."""
    failed: list[StageFailed] = []
    for step in steps:
        try:
            run_step(session, step, num_done)
        except StageFailed as error:
            if not load(step.refs[0].stage).derived:
                raise
            session.display.line(f"  {'failed':6} {step}: the run goes on without it")
            failed.append(error)
        num_done += len(step.refs)
    if failed:
        raise failed[0]


def run_stage(cfg: Config, ref: Ref, settings: Sequence[str] = ()) -> None:
    """Runs one stage instance whose inputs are done. Raises what `run` raises. `settings`: the words that made `cfg`."""
    run_dir, stage, began = run_directory(cfg), load(ref.stage), time.time()
    with locked(run_dir):
        if stages.state(stage, cfg, ref.iteration, run_dir) == "done":
            say(f"{run_dir}/{ref} is up to date")
            return
        check_settings(cfg, run_dir)
        check_stage(stage, cfg, ref.iteration)
        check_reuse(cfg.run.reuse)
        check_here(cfg, [ref])
        stages.identity_of(stage, cfg, ref.iteration, run_dir, settings)  # raises where an input is not done
        save_resolved_config(cfg, run_dir)
        with Display(1) as display:
            run_step(Session(cfg, run_dir, display, began), step_of(cfg, ref), 0)


def start(cfg: Config, until: str) -> int:
    """`nemo-srlm run`: `run`, and then the results in the terminal. Returns the exit code."""
    began = time.time()
    try:
        run_dir = run(cfg, until)
    except StageFailed as error:
        say(f"\n{error}\n  {WHAT_NEXT[error.code]}", error=True)
        return error.code
    if not until:
        console().print(terminal_table(run_dir))
        say(f"report: {run_dir}/report.html   ({time.time() - began:.0f} s)")
    return EXIT_DONE
