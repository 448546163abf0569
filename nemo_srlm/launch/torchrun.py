"""torchrun that keeps the workers' exit code: `python -m nemo_srlm.launch.torchrun --standalone --nproc-per-node 2 -m ...`.

torchrun itself ends with 1 whatever its workers ended with. Here 75 (saved, not finished: run it again) and 2 (the
user's mistake) come through. SIGTERM and SIGUSR1 become the stage's stop file, so that all ranks save at one step.
"""

import os
import signal
import sys
from pathlib import Path

EXIT_USER, EXIT_AGAIN = 2, 75


def _stop_file() -> Path | None:
    names = ("NEMO_SRLM_RUN_DIR", "NEMO_SRLM_STAGE", "NEMO_SRLM_ITERATION")
    if not all(name in os.environ for name in names):
        return None
    run_dir, stage, iteration = (os.environ[name] for name in names)
    return Path(run_dir) / f"iter{iteration}" / stage / "stop"


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, 2, 75, or 1 for any other failure."""
    os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGINT,SIGHUP,SIGQUIT")  # SIGTERM is ours
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    stop = _stop_file()
    if stop is not None:
        stop.unlink(missing_ok=True)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda *_: stop.touch())
    args = parse_args(arguments)
    if getattr(args, "signals_to_handle", None):
        args.signals_to_handle = "SIGINT,SIGHUP,SIGQUIT"
    try:
        run(args)
    except ChildFailedError as failed:
        codes = {failure.exitcode for failure in failed.failures.values()}
        for code in (EXIT_USER, EXIT_AGAIN):
            if code in codes:
                return code
        print(failed, file=sys.stderr)
        return 1
    finally:
        if stop is not None:
            stop.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
