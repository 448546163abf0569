"""A training worker: one rank, started by torchrun with the arguments RUN_DIR iterT/STAGE (see launch/contract.py)."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from nemo_srlm.core import stage as stages
from nemo_srlm.core.control import write_stopped
from nemo_srlm.core.process import die_with_named_parent
from nemo_srlm.core.stage import Ref
from nemo_srlm.core.terminal import say
from nemo_srlm.launch.contract import EXIT_AGAIN, EXIT_DONE, EXIT_USER, Work, parse, record_failure
from nemo_srlm.launch.run_config import run_config
from nemo_srlm.stages import load
from nemo_srlm.train.megatron.quiet import quiet


def exit_code(work: Callable[[], None], ref: Ref, directory: Path) -> int:
    """Does the work and returns the exit code. The first rank that fails writes the reason: see `record_failure`."""
    try:
        return _attempt(lambda: _noting_why(work, directory))
    except Exception as error:
        # ranks that fail later only report that they have lost the first; torchrun.py has removed an earlier attempt's
        record_failure(error, ref, directory, keep=True)
        return EXIT_USER


def _noting_why(work: Callable[[], None], directory: Path) -> None:
    """Does the work. A rank that was asked to stop writes why; another rank may be the one that was asked."""
    from nemo_srlm.train.megatron.trainer import Stopped

    try:
        work()
    except Stopped as stopped:
        if stopped.reason:
            write_stopped(directory, stopped.reason)
        raise


def _attempt(work: Callable[[], None]) -> int:
    """Does the work and shuts the process groups down."""
    from nemo_srlm.train.megatron import setup
    from nemo_srlm.train.megatron.trainer import Stopped

    try:
        work()
        setup.shutdown()
    except Stopped as stopped:
        say(stopped, error=True)
        return EXIT_AGAIN
    return EXIT_DONE


def train(work: Work) -> None:
    """Runs the stage. Raises StaleError when it was begun under another config, UserError when kernels are missing."""
    from nemo_srlm.train.megatron import accelerator

    accelerator.require_kernels()
    accelerator.require_gpu()
    accelerator.import_megatron()
    (ref,), cfg = work.refs, run_config(work.run_dir)
    stage = load(ref.stage)
    if stages.state(stage, cfg, ref.iteration, work.run_dir) == "missing":
        stages.begin(stage, cfg, ref.iteration, work.run_dir)
    stage.run(stages.context(work.run_dir, stage, cfg, ref.iteration))


def main() -> None:
    die_with_named_parent()  # torchrun: killed with -9, it would leave its ranks behind
    quiet()
    work = parse()
    code = exit_code(lambda: train(work), work.refs[0], stages.stage_directory(work.run_dir, work.refs[0]))
    # other ranks may wait in a collective that this rank never joins: exit at once, torchrun ends them
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
