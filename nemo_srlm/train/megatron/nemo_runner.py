"""NeMo's runner: what hydra_runner makes of a YAML file. The only place that imports NeMo, which takes seconds."""

import sys
from pathlib import Path
from typing import Any

from nemo_srlm.config.schema import Config


def handed_over(path: Path) -> Any:
    """The OmegaConf tree that hydra_runner hands to a recipe whose config is the file `path`.

    hydra_runner reads its two arguments from the command line, so they are put there for the call. It hides the traceback of
    what it calls, so nothing else runs inside it.
    """
    from nemo.core.config import hydra_runner

    found, arguments = list[Any](), sys.argv
    sys.argv = [arguments[0], "--config-path", str(path.parent), "--config-name", path.stem]
    try:
        hydra_runner(config_path=".", config_name=path.stem, schema=Config)(found.append)()
    finally:
        sys.argv = arguments
    return found[0]
