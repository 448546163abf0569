"""What the optional evaluations share: their inputs, the model's name in their files, the user's files."""

from collections.abc import Callable
from pathlib import Path

from nemo_srlm.config.schema import Config
from nemo_srlm.core.pipeline import evaluated_name
from nemo_srlm.core.stage import Context, Ref
from nemo_srlm.errors import ConfigError

Inputs = Callable[[Config, int], dict[str, Ref]]


def of_model(export: str) -> Inputs:
    """Inputs: the exported model alone."""
    return lambda cfg, iteration: {"model": Ref(export, iteration)}


def full_name(ctx: Context) -> str:
    """The model's name in files for other programs: the run's name and the model's."""
    return f"{ctx.cfg.run.name}-{evaluated_name(ctx.cfg, ctx.dir.name, ctx.iteration)}"


def require(where: str, path: str, what: str) -> Path:
    """The file that a setting names. Raises ConfigError where there is none."""
    if not path or not Path(path).is_file():
        raise ConfigError(where, f"no file {path!r}" if path else "empty", what, f"set {where}=<path>")
    return Path(path)
