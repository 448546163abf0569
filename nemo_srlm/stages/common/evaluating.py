"""What the evaluations that can be turned on share: variants for the SFT baseline, names of models, files of the user's."""

from collections.abc import Callable
from pathlib import Path

from nemo_srlm.config.schema import Config
from nemo_srlm.core.stage import Context, Ref
from nemo_srlm.errors import ConfigError

Inputs = Callable[[Config, int], dict[str, Ref]]


def of_model(export: str) -> Inputs:
    """Inputs: the exported model alone."""
    return lambda cfg, iteration: {"model": Ref(export, iteration)}


def model_name(ctx: Context) -> str:
    """M0, baseline, M1, M2, ... as the report names them."""
    for suffix, name in (("_baseline", "baseline"), ("_base", "M0")):
        if ctx.dir.name.endswith(suffix):
            return name
    return f"M{ctx.iteration + 1}"


def full_name(ctx: Context) -> str:
    """The model's name in files that leave the run."""
    return f"{ctx.cfg.run.name}-{model_name(ctx)}"


def require(where: str, path: str, what: str) -> Path:
    """The file that a setting names. Raises ConfigError where it is not."""
    if not path or not Path(path).is_file():
        raise ConfigError(where, f"no file {path!r}" if path else "empty", what, f"set {where}=<path>")
    return Path(path)
