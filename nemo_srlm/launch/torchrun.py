"""torchrun that keeps the workers' exit code: `python -m nemo_srlm.launch.torchrun RUN_DIR iter1/dpo --standalone ...`.

torchrun itself exits with 1 whatever its workers exited with. Here EXIT_AGAIN and EXIT_USER of launch/contract.py come
through. SIGTERM and SIGUSR1 create the stage's stop file, so that all ranks save at the same step.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_srlm.core.control import clear_error, clear_stopped, read_error, stop_file, write_error
from nemo_srlm.core.process import PARENT, ending
from nemo_srlm.core.stage import Ref, stage_directory
from nemo_srlm.core.terminal import say
from nemo_srlm.launch.contract import EXIT_AGAIN, EXIT_DONE, EXIT_FAILED, EXIT_USER, TRAIN_WORKER, parse, record_failure

OTHER_SIGNALS = "SIGINT,SIGHUP,SIGQUIT"  # that torchrun handles: SIGTERM is handled here


def main(arguments: Sequence[str]) -> int:
    """`arguments`: run directory, stage, torchrun's flags. Returns the exit code."""
    os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", OTHER_SIGNALS)
    os.environ[PARENT] = str(os.getpid())  # for the ranks, which this process starts
    work, flags = parse(arguments[:2]), arguments[2:]
    directory = stage_directory(work.run_dir, work.refs[0])
    try:
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.run import parse_args, run
    except ModuleNotFoundError as error:
        record_failure(error, work.refs[0], directory)
        return EXIT_USER
    stop = stop_file(directory)
    stop.unlink(missing_ok=True)
    clear_stopped(directory)
    clear_error(directory)  # no rank has started yet: of the ranks that fail, the first writes the reason
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: stop.touch())
    args = parse_args([*flags, "-m", TRAIN_WORKER, *work.arguments])  # type: ignore[no-untyped-call]  # torch's
    args.signals_to_handle = OTHER_SIGNALS
    try:
        run(args)  # type: ignore[no-untyped-call]
    except ChildFailedError as failed:
        codes = {rank: failure.exitcode for rank, failure in failed.failures.items()}
        code = next((code for code in (EXIT_USER, EXIT_AGAIN) if code in codes.values()), EXIT_FAILED)
        if code == EXIT_FAILED:
            _write_cause(work.refs[0], directory, codes)
        return code
    except Exception as error:  # of torchrun itself, such as no free port or file descriptor
        record_failure(error, work.refs[0], directory, keep=True)
        return EXIT_USER
    finally:
        stop.unlink(missing_ok=True)
    return EXIT_DONE


def _write_cause(ref: Ref, directory: Path, codes: Mapping[int, int]) -> None:
    """Says how the ranks ended, in a line: torchrun's own words, which would follow, hide the end of their tracebacks.

    A rank that was killed could write no reason, and another one that has lost it may have written that: then this is
    the reason. `codes`: exit codes of the ranks that have failed.
    """
    killed = {rank: code for rank, code in codes.items() if code < 0 and -code != signal.SIGTERM}
    ended = "; ".join(f"rank {rank}: {ending(code)}" for rank, code in sorted((killed or codes).items()))
    say(ended, error=True)
    if killed:
        reason = read_error(directory)
        write_error(directory, f"{ref}: {ended}" + (f"\n  another rank: {reason}" if reason else ""))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
