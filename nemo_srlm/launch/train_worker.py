"""The entry of a training worker, one process a rank, under torchrun (see launch.py).

    torchrun ... -m nemo_srlm.launch.train_worker --config-path RUN_DIR --config-name config
    environment: NEMO_SRLM_RUN_DIR, NEMO_SRLM_STAGE, NEMO_SRLM_ITERATION

NeMo's hydra_runner reads the run's frozen config against the schema; the stage comes from the stage graph.
"""

import os
import sys
from pathlib import Path

from nemo_srlm.config.schema import Config
from nemo_srlm.core.process import die_with_parent
from nemo_srlm.train.megatron.quiet import quiet

die_with_parent()  # of torchrun's agent: killed with -9, it would leave its ranks behind, training or waiting for it
quiet()
from nemo.core.config import hydra_runner  # noqa: E402 - after the noise is off


@hydra_runner(config_path=".", config_name="config", schema=Config)
def _main(_: Config) -> None:
    from nemo_srlm.core.stage import Ref
    from nemo_srlm.launch.train_end import end_of
    from nemo_srlm.launch.worker import worker_context, write_error

    run_dir = Path(os.environ["NEMO_SRLM_RUN_DIR"])
    stage, ctx = worker_context(run_dir, os.environ["NEMO_SRLM_STAGE"], int(os.environ["NEMO_SRLM_ITERATION"]))
    ref = Ref(stage.name, ctx.iteration)
    code = end_of(lambda: stage.run(ctx), ctx.dir, lambda words: write_error(run_dir, ref, words))
    if code:
        # other ranks may wait in a collective that this one never joins: leave at once, torchrun ends them
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _main()  # hydra_runner itself keeps Hydra from making output directories
