"""TensorBoard, Weights & Biases and MLflow: the one place that writes to them, for training curves and for the report.

TensorBoard's event files are always written, the others where the config names a project (run.wandb) or an experiment
(run.mlflow; server and credentials as MLflow's own client finds them, MLFLOW_TRACKING_URI). Each stage is a run of its own,
named run/iteration/stage; a stage that is started again continues its run. report/tracking.py says what the report sends.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from nemo_srlm.config.schema import Config
from nemo_srlm.core.records import content_id
from nemo_srlm.core.terminal import say
from nemo_srlm.errors import ConfigError, UserError

BOARD = "logs/tensorboard"  # in the stage's directory. Event files name host and time, so they are logs, not outputs
TAG = "nemo_srlm.id"  # of an MLflow run: what a restarted stage finds its run by
Rows = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Projects:
    """Where numbers go besides TensorBoard: a Weights & Biases project, an MLflow experiment; "" = not there."""

    wandb: str = ""
    mlflow: str = ""


NO_PROJECTS = Projects()


class Tracker(Protocol):
    def scalars(self, values: Mapping[str, float], step: int) -> None: ...
    def table(self, name: str, header: Sequence[str], rows: Rows) -> None: ...
    def page(self, html: Path, markdown: str) -> None: ...
    def close(self) -> None: ...


def projects_of(cfg: Config) -> Projects:
    return Projects(cfg.run.wandb, cfg.run.mlflow)


def check(projects: Projects) -> None:
    """Raises ConfigError when a tracker is wanted and not installed."""
    for setting, wanted, package in (("run.wandb", projects.wandb, "wandb"), ("run.mlflow", projects.mlflow, "mlflow")):
        if wanted and find_spec(package) is None:
            raise ConfigError(
                setting, f"{wanted!r}, but the package {package} is not installed", f'"" (off), or {package} in the environment',
                f"pip install {package}, or leave {setting} empty: TensorBoard files are written always",
            )  # fmt: skip


def open_trackers(directory: Path, projects: Projects, first_step: int = 0, key: str = "") -> "Trackers":
    """The trackers of the stage in `directory`. Events after step `first_step` of an earlier attempt go.

    key: two attempts with the same one continue one run ("": those since the stage was begun, see `_named`). Raises ConfigError
    for one that is not installed, UserError for one that refuses (no key, no server).
    """
    check(projects)
    found: list[Tracker] = []
    if find_spec("torch") and find_spec("tensorboard"):
        found.append(TensorBoard(directory, first_step))
    else:  # the light environment, which makes reports
        say(
            f"note: {directory.name} writes no TensorBoard files, torch and tensorboard are not installed here",
            error=True,
        )
    found += [WeightsAndBiases(directory, projects.wandb, key)] if projects.wandb else []
    found += [MLflow(directory, projects.mlflow, key)] if projects.mlflow else []
    return Trackers(found)


@dataclass(frozen=True)
class Trackers:
    """Several trackers as one."""

    each: Sequence[Tracker]

    def line(self, line: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl."""
        self.scalars(scalars(line), int(line["step"]))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for tracker in self.each:
            tracker.scalars(values, step)

    def table(self, name: str, header: Sequence[str], rows: Rows) -> None:
        for tracker in self.each:
            tracker.table(name, header, rows)

    def page(self, html: Path, markdown: str) -> None:
        for tracker in self.each:
            tracker.page(html, markdown)

    def close(self) -> None:
        for tracker in self.each:
            tracker.close()


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl by name; those of a validation as "validation/<name>"."""
    nested = {f"validation/{name}": value for name, value in line.get("validation", {}).items()}
    own = {name: value for name, value in line.items() if name != "step"}
    return {name: float(value) for name, value in (own | nested).items() if isinstance(value, (int, float))}


def _named(directory: Path, key: str) -> tuple[str, str]:
    """(name, id) of a stage's run: without a key the id is another one when the stage was removed and begun anew."""
    place, started = directory.resolve(), directory / "logs" / "started"
    begun = started.read_text(encoding="utf-8") if started.exists() else ""
    return "/".join(place.parts[-3:]), content_id(str(place), key or begun)


class TensorBoard:
    """Event files in the stage's directory. Tables and the page are texts, which TensorBoard renders as Markdown."""

    def __init__(self, directory: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(directory / BOARD), purge_step=first_step + 1, flush_secs=10)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def table(self, name: str, header: Sequence[str], rows: Rows) -> None:
        lines = [header, ["---"] * len(header), *rows]
        self._writer.add_text(name, "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines))

    def page(self, html: Path, markdown: str) -> None:
        self._writer.add_text(html.stem, markdown)

    def close(self) -> None:
        self._writer.close()


def _cell(text: str) -> str:
    """A text as one cell of a Markdown table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\r", "").replace("\n", "<br>")


class WeightsAndBiases:
    def __init__(self, directory: Path, project: str, key: str) -> None:
        import wandb

        name, own = _named(directory, key)
        try:
            self._run: Any = wandb.init(
                project=project, name=name, id=own, resume="allow", dir=str(directory / "logs")
            )  # fmt: skip
        except wandb.Error as error:
            raise UserError(
                f"run.wandb={project}", f"Weights & Biases refuses: {error}", "a key, or WANDB_MODE=offline",
                "run `wandb login`, export WANDB_API_KEY or WANDB_MODE=offline; or leave run.wandb empty",
            ) from error  # fmt: skip

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        if step >= self._run.step:  # an earlier attempt has sent the others; W&B takes steps in their order only
            self._run.log(dict(values), step=step)

    def table(self, name: str, header: Sequence[str], rows: Rows) -> None:
        import wandb

        self._run.log({name: wandb.Table(columns=list(header), data=[list(row) for row in rows])})

    def page(self, html: Path, markdown: str) -> None:
        import wandb

        self._run.log({html.stem: wandb.Html(html.read_text(encoding="utf-8"), inject=False)})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """Through MLflow's own client. Numbers are sent in the background: a server that is slow or gone stops no training."""

    def __init__(self, directory: Path, experiment: str, key: str) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        name, own = _named(directory, key)
        try:
            self._client: Any = MlflowClient()
            known = self._client.get_experiment_by_name(experiment)
            place = known.experiment_id if known else self._client.create_experiment(experiment)
            earlier = self._client.search_runs([place], f"tags.`{TAG}` = '{own}'", max_results=1)
            made = earlier[0] if earlier else self._client.create_run(place, run_name=name, tags={TAG: own})
        except MlflowException as error:
            raise UserError(
                f"run.mlflow={experiment}", f"MLflow refuses: {error}", "a tracking server that answers",
                "export MLFLOW_TRACKING_URI and its credentials, or leave run.mlflow empty",
            ) from error  # fmt: skip
        self._run: str = made.info.run_id
        self._client.update_run(self._run, status="RUNNING")
        self._continued = bool(earlier)
        self._sent: dict[str, set[int]] = {}  # metric -> the steps that earlier attempts have sent

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items() if step not in self._steps(name)]
        if metrics:
            self._client.log_batch(self._run, metrics=metrics, synchronous=False)

    def _steps(self, name: str) -> set[int]:
        """The steps of a metric that earlier attempts have sent: MLflow would keep a second value of a step beside the first."""
        if self._continued and name not in self._sent:
            self._sent[name] = {metric.step for metric in self._client.get_metric_history(self._run, name)}
        return self._sent.get(name, set())

    def table(self, name: str, header: Sequence[str], rows: Rows) -> None:
        # its log_table would append to the table of an earlier attempt
        data = {"columns": list(header), "data": [list(row) for row in rows]}
        self._client.log_dict(self._run, data, f"{name}.json")

    def page(self, html: Path, markdown: str) -> None:
        self._client.log_artifact(self._run, str(html))

    def close(self) -> None:
        import mlflow
        from mlflow.exceptions import MlflowException

        try:
            mlflow.flush_async_logging()
            self._client.set_terminated(self._run)
        except MlflowException as error:
            say(f"note: MLflow did not take everything: {error}", error=True)
