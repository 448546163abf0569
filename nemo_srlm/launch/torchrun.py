"""torchrun that keeps the workers' exit code: `python -m nemo_srlm.launch.torchrun RUN_DIR iter1/dpo --standalone ...`.

torchrun itself exits with 1 whatever its workers exited with. Here EXIT_AGAIN and EXIT_USER of launch/contract.py come
through. SIGTERM and SIGUSR1 create the stage's stop file, so that all ranks save at the same step.
"""

import os
import signal
import sys
from collections.abc import Sequence

from nemo_srlm.core.control import clear_error, stop_file
from nemo_srlm.core.process import PARENT
from nemo_srlm.core.stage import stage_directory
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
    clear_error(directory)  # no rank has started yet: of the ranks that fail, the first writes the reason
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: stop.touch())
    args = parse_args([*flags, "-m", TRAIN_WORKER, *work.arguments])  # type: ignore[no-untyped-call]  # torch's
    args.signals_to_handle = OTHER_SIGNALS
    try:
        run(args)  # type: ignore[no-untyped-call]
    except ChildFailedError as failed:
        codes = {failure.exitcode for failure in failed.failures.values()}
        for code in (EXIT_USER, EXIT_AGAIN):
            if code in codes:
                return code
        say(failed, error=True)
        return EXIT_FAILED
    finally:
        stop.unlink(missing_ok=True)
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
