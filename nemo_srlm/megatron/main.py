"""The entry of a training worker, one process a rank, under torchrun (see launch.py).

    torchrun ... -m nemo_srlm.megatron.main --config-path RUN_DIR --config-name config
    environment: NEMO_SRLM_RUN_DIR, NEMO_SRLM_STAGE, NEMO_SRLM_ITERATION

NeMo's hydra_runner reads the run's frozen config against the schema; the stage comes from the stage graph.
"""

import os
import sys
from pathlib import Path

from nemo_srlm.config import Config
from nemo_srlm.errors import UserError
from nemo_srlm.megatron.quiet import quiet

EXIT_USER, EXIT_AGAIN = 2, 75

quiet()
from nemo.core.config import hydra_runner  # noqa: E402 - after the noise is off
from nemo.utils import logging  # noqa: E402


@hydra_runner(config_path=".", config_name="config", schema=Config)
def _main(_: Config) -> None:
    from nemo_srlm.megatron import setup
    from nemo_srlm.megatron.train import Stopped
    from nemo_srlm.stage import worker_context

    run_dir = Path(os.environ["NEMO_SRLM_RUN_DIR"])
    stage, ctx = worker_context(run_dir, os.environ["NEMO_SRLM_STAGE"], int(os.environ["NEMO_SRLM_ITERATION"]))
    rank = int(os.environ.get("RANK", "0"))
    code = 0
    try:
        stage.run(ctx)
        setup.shutdown()
    except Stopped as stopped:
        logging.info(str(stopped))
        code = EXIT_AGAIN
    except UserError as error:
        code = EXIT_USER
        if rank == 0:
            (ctx.dir / "logs").mkdir(exist_ok=True)
            (ctx.dir / "logs" / "error").write_text(str(error), encoding="utf-8")
        print(f"error: {error}", file=sys.stderr, flush=True)
    if code:
        # other ranks may wait in a collective that this one never joins: leave at once, torchrun ends them
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _main()  # hydra_runner itself keeps Hydra from making output directories
