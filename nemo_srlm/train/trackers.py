"""Training curves for other tools: TensorBoard event files always, Weights & Biases when the config names a project.

Rank 0 logs the lines of metrics.jsonl, after the step's time has been measured.
"""

from pathlib import Path
from typing import Any

from nemo_srlm.errors import ConfigError, UserError

BOARD = "logs/tensorboard"  # in the stage's directory. Event files name host and time, so they are logs, not outputs


def scalars(line: dict[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl by name; those of a validation as "validation/<name>"."""
    nested = {f"validation/{name}": value for name, value in line.get("validation", {}).items()}
    own = {name: value for name, value in line.items() if name != "step"}
    return {name: float(value) for name, value in (own | nested).items() if isinstance(value, (int, float))}


def check(project: str) -> None:
    """Raises ConfigError when Weights & Biases is wanted and not installed."""
    from importlib.util import find_spec

    if project and find_spec("wandb") is None:
        raise ConfigError(
            "run.wandb", f"{project!r}, but the package wandb is not installed", '"" (off), or wandb in the environment',
            "pip install wandb, or leave run.wandb empty: TensorBoard files are written always",
        )  # fmt: skip


class Tracker:
    """Open event files (and W&B run) of one training stage. Events after step `first_step` of an earlier attempt go."""

    def __init__(self, directory: Path, first_step: int = 0, project: str = "") -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board: Any = SummaryWriter(str(directory / BOARD), purge_step=first_step + 1, flush_secs=10)
        self._run: Any = open_run(directory, project) if project else None

    def log(self, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        values, step = scalars(line), int(line["step"])
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log(values, step=step)

    def close(self) -> None:
        self._board.close()
        if self._run is not None:
            self._run.finish()


def open_run(directory: Path, project: str) -> Any:
    """The W&B run of a stage; a resumed stage continues its run. Raises UserError when W&B refuses (no key, ...)."""
    check(project)
    import wandb

    from nemo_srlm.core.records import content_id

    started = directory / "logs" / "started"
    place = directory.resolve()
    run_id = content_id(str(place), started.read_text(encoding="utf-8") if started.exists() else "")
    name = "/".join(place.parts[-3:])  # run, iteration, stage
    try:
        return wandb.init(project=project, name=name, id=run_id, resume="allow", dir=str(directory / "logs"))
    except wandb.Error as error:
        raise UserError(
            f"run.wandb={project}", f"Weights & Biases refuses: {error}", "a key, or WANDB_MODE=offline",
            "run `wandb login`, export WANDB_API_KEY or WANDB_MODE=offline; or leave run.wandb empty",
        ) from error  # fmt: skip
