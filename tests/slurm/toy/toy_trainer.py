"""A training rank of the toy pipeline, in place of nemo_srlm.launch.train_worker."""

import os
import signal
import sys
from pathlib import Path

from nemo_srlm.errors import UserError
from nemo_srlm.launch.worker import worker_context, write_error


def main():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the trainer saves when the stop file appears
    stage, ctx = worker_context(
        Path(os.environ["NEMO_SRLM_RUN_DIR"]), os.environ["NEMO_SRLM_STAGE"], int(os.environ["NEMO_SRLM_ITERATION"])
    )
    stage.run(ctx)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        write_error(Path(os.environ["NEMO_SRLM_RUN_DIR"]), None, str(error))
        sys.exit(2)
