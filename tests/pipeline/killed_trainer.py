"""Trainings that are killed, signalled, out of time, or whose newest checkpoint is truncated, and then resumed.

    python killed_trainer.py OUTPUT_DIR

One process imports everything and forks one process per attempt, so that kills are real and restarts cheap. Writes the
results to OUTPUT_DIR/found.json.
"""

import dataclasses
import faulthandler
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from nemo_srlm.core.stage import Ref
from nemo_srlm.launch.train_worker import exit_code
from nemo_srlm.train import metrics
from nemo_srlm.train.checkpoint_dir import incomplete_reason
from nemo_srlm.train.megatron.job import start
from nemo_srlm.train.megatron.quiet import quiet
from nemo_srlm.train.megatron.tasks import sft_task
from nemo_srlm.train.megatron.trainer import fit
from nemo_srlm.train.stop_conditions import Limits
from tests.pipeline.trainer_worker import digest, documents, held_out, job
from tests.processes import left_by

SECTION = {"dropout": 0.1, "save_every": 2, "keep_last": 3, "max_steps": 30, "validate_every": 4, "keep_best": True}
PEAK = 0.05  # TFLOP/s
TIMED = ("seconds", "tokens_per_s", "tflops", "mfu")
KILLS = 3
PATIENCE = 300.0  # time limit of a child in seconds, for a busy machine


def attempt(directory: Path, limits: Limits) -> int:
    """Forks a training worker in its own session; returns its process id. Directories named async... use asynchronous saves."""
    section = {**SECTION, "save_async": directory.name.startswith("async")}
    directory.mkdir(exist_ok=True)
    child = os.fork()
    if child:
        return child
    os.setsid()
    faulthandler.enable()  # SIGABRT prints the stacks
    log = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)

    def work() -> None:
        trainer = start(dataclasses.replace(job(directory, {"peak_tflops": PEAK}, section, None), limits=limits))
        fit(trainer, sft_task(documents(40, 3), 7, 0.25), held_out())
        (directory / "digest").write_text(digest(trainer))

    code = 1
    try:
        code = exit_code(work, Ref("sft", 0), directory)
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int, directory: Path) -> int:
    until = time.monotonic() + PATIENCE
    while (waited := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > until:
            os.kill(child, signal.SIGABRT)
            os.waitpid(child, 0)
            raise AssertionError(f"{directory.name} hung:\n{(directory / 'log').read_text()[-6000:]}")
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(waited[1])


def steps(directory: Path) -> int:
    path = directory / metrics.METRICS
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def alive_after(child: int, directory: Path, more: int) -> None:
    """Waits until the child has logged `more` steps from now on."""
    wanted, until = steps(directory) + more, time.monotonic() + PATIENCE
    while steps(directory) < wanted:
        assert time.monotonic() < until, (directory / "log").read_text()
        time.sleep(0.005)


def complete(directory: Path) -> list[Path]:
    return [p for p in sorted((directory / "checkpoint").glob("step_*")) if not incomplete_reason(p)]


def result(directory: Path) -> dict[str, Any]:
    """Runs an undisturbed attempt to its end; returns exit code, weights digest and metrics."""
    code = ended(attempt(directory, Limits()), directory)
    lines = [json.loads(line) for line in (directory / metrics.METRICS).read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if k not in TIMED} for line in lines]
    return {
        "code": code, "digest": (directory / "digest").read_text(), "lines": kept, "timed": lines[-2],
        "best": json.loads((directory / "checkpoint" / "final" / "best.json").read_text()),
    }  # fmt: skip


def killed(directory: Path, seed: int) -> dict[str, Any]:
    """SIGKILL at random times, so during steps, saves or between; the last kill when a writer process exists, if any."""
    moments, codes, left, most = random.Random(seed), [], [], 1
    for kill in range(KILLS + 1):
        child = attempt(directory, Limits())
        alive_after(child, directory, moments.randint(1, 2))
        time.sleep(moments.uniform(0.0, 0.05))
        if kill == KILLS:
            most = busiest(child, directory)
        os.kill(child, signal.SIGKILL)
        codes.append(ended(child, directory))
        left += left_by(child)
    return {"codes": codes, "seed": seed, "left": left, "most": most, **result(directory)}


def busiest(child: int, directory: Path) -> int:
    """Waits until three processes exist (trainer, queue manager, writer); returns the largest number seen.

    Stops after four saves: a trainer that writes its files itself has no other process.
    """
    children, most, wanted = Path(f"/proc/{child}/task/{child}/children"), 1, steps(directory) + 8
    while most < 3 and steps(directory) < wanted:
        most = max(most, 1 + len(children.read_text().split()))
    return most


def told(directory: Path, number: signal.Signals) -> dict[str, Any]:
    child = attempt(directory, Limits())
    alive_after(child, directory, 4)
    os.kill(child, number)
    code, saved = ended(child, directory), len(complete(directory))
    incomplete = directory.with_name(f"{directory.name}-incomplete")
    shutil.copytree(directory, incomplete)
    return {"stopped": code, "saved": saved, **result(directory)}


def incomplete(directory: Path) -> dict[str, Any]:
    """Truncates the largest file of the newest checkpoint to half its size, then resumes."""
    newest = complete(directory)[-1]
    largest = max(newest.iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    return {"newest": newest.name, **result(directory), "log": (directory / "log").read_text()}


def out_of_time(directory: Path) -> dict[str, Any]:
    code = ended(attempt(directory, Limits((), time.time(), "the allocation ends")), directory)
    return {"stopped": code, "steps": steps(directory), "log": (directory / "log").read_text(), **result(directory)}


def main() -> None:
    quiet()
    out = Path(sys.argv[1])
    os.environ |= {"WORLD_SIZE": "1", "RANK": "0"}
    found = {
        "whole": result(out / "whole"),
        "killed": killed(out / "killed", random.randrange(10**6)),
        "async": killed(out / "async", random.randrange(10**6)),
        "told": told(out / "told", signal.SIGTERM),
        "incomplete": incomplete(out / "told-incomplete"),
        "out_of_time": out_of_time(out / "out_of_time"),
    }
    (out / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
