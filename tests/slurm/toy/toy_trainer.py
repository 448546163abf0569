"""A training rank of the toy pipeline, in place of nemo_srlm.launch.train_worker."""

import signal
import sys

from nemo_srlm.config.compose import load_resolved_config
from nemo_srlm.core import stage as stages
from nemo_srlm.launch.contract import EXIT_USER, parse, record_failure
from nemo_srlm.stages import load


def main():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the trainer saves when the stop file appears
    work = parse()
    (ref,) = work.refs
    stage = load(ref.stage)
    ctx = stages.context(work.run_dir, stage, load_resolved_config(work.run_dir), ref.iteration)
    try:
        stage.run(ctx)
    except Exception as error:
        record_failure(error, ref, ctx.dir, keep=True)
        return EXIT_USER
    return 0


if __name__ == "__main__":
    sys.exit(main())
