"""The resolved config of a run as NeMo's hydra_runner composes it, checked against the schema."""

import sys
from pathlib import Path
from typing import Any

from nemo_srlm.config.compose import RESOLVED_CONFIG, typed
from nemo_srlm.config.schema import Config


def run_config(run_dir: Path) -> Config:
    """What hydra_runner hands over for RUN_DIR/config.yaml. Raises ConfigError.

    hydra_runner reads its two arguments from the command line, so they are put there for the call. It hides the traceback
    of what it calls, so nothing else runs inside it.
    """
    from nemo.core.config import hydra_runner

    path, handed_over = run_dir.resolve() / RESOLVED_CONFIG, list[Any]()
    arguments = sys.argv
    sys.argv = [arguments[0], "--config-path", str(path.parent), "--config-name", path.stem]
    try:
        hydra_runner(config_path=".", config_name=path.stem, schema=Config)(handed_over.append)()
    finally:
        sys.argv = arguments
    return typed(handed_over[0], str(path))
