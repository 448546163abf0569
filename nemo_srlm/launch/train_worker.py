"""A training worker: one rank, started by torchrun with the arguments RUN_DIR iterT/STAGE (see launch/contract.py)."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from nemo_srlm.core import stage as stages
from nemo_srlm.core.control import write_error
from nemo_srlm.core.process import die_with_parent
from nemo_srlm.errors import UserError, of_system
from nemo_srlm.launch.contract import EXIT_AGAIN, EXIT_DONE, EXIT_USER, Work, parse
from nemo_srlm.stages import load
from nemo_srlm.train.megatron.quiet import quiet


def exit_code(work: Callable[[], None], directory: Path) -> int:
    """Does the work, shuts the process groups down, and returns the exit code.

    Rank 0 writes the user's mistake to the error file of the stage directory; any other exception is raised.
    """
    from nemo_srlm.train.megatron import setup
    from nemo_srlm.train.megatron.trainer import Stopped

    try:
        work()
        setup.shutdown()
    except Stopped as stopped:
        print(stopped, file=sys.stderr, flush=True)
        return EXIT_AGAIN
    except Exception as error:
        mistake = error if isinstance(error, UserError) else of_system(error, directory)
        if mistake is None:
            raise
        if os.environ.get("RANK", "0") == "0":
            write_error(directory, str(mistake))
        print(f"error: {mistake}", file=sys.stderr, flush=True)
        return EXIT_USER
    return EXIT_DONE


def train(work: Work) -> None:
    """Runs the stage. Raises StaleError when it was begun under another config."""
    from nemo_srlm.train.megatron.run_config import run_config

    (ref,), cfg = work.refs, run_config(work.run_dir)
    stage = load(ref.stage)
    if stages.state(stage, cfg, ref.iteration, work.run_dir) == "missing":
        stages.begin(stage, cfg, ref.iteration, work.run_dir)
    stage.run(stages.context(work.run_dir, stage, cfg, ref.iteration))


def main() -> None:
    die_with_parent()  # the parent is torchrun: killed with -9, it would leave its ranks behind
    quiet()
    work = parse()
    code = exit_code(lambda: train(work), stages.stage_directory(work.run_dir, work.refs[0]))
    # other ranks may wait in a collective that this rank never joins: exit at once, torchrun ends them
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
