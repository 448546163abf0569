"""The unfinished stages of a run, as steps: launch/local.py executes them on this machine, launch/slurm makes jobs of them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nemo_srlm.config.compose import RESOLVED_CONFIG
from nemo_srlm.config.schema import Config
from nemo_srlm.core import manifest, outputs
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.stage import Kind, Ref, Stage, changed_outputs, refuse_other_settings, stage_directory, state
from nemo_srlm.errors import ConfigError, UserError, raise_all
from nemo_srlm.stages import load

FUSABLE = ("cpu", "generate")  # neighbouring stages of these kinds may share a process (and an engine)


@dataclass(frozen=True)
class Step:
    """Stages that one process (or group of processes) runs, one after another."""

    refs: tuple[Ref, ...]
    kind: Kind
    num_shards: int

    @property
    def finished_by_launcher(self) -> bool:
        """Whether the launcher writes the manifest, after several processes have ended, and not the one worker."""
        return self.kind == "train" or self.num_shards > 1

    def __str__(self) -> str:
        return " ".join(map(str, self.refs))


def lost_stages(cfg: Config, run_dir: Path) -> dict[Ref, list[str]]:
    """The finished stages whose outputs are missing or of another size, with what has changed. The report is none of
    them: it is made anew."""
    every = {ref: changed_outputs(run_dir, ref) for ref in pipeline(cfg) if not load(ref.stage).derived}
    return {ref: changed for ref, changed in every.items() if changed}


def remaining(cfg: Config, run_dir: Path) -> list[Ref]:
    """The unfinished stage instances, in order.

    A stage behind an unfinished one is in the list: its settings are compared now, what it reads when it is run.
    Raises LostError for finished stages whose outputs are no longer there, StaleError for the first stage that was made
    under other settings, and UserError with all files and programs that unfinished stages will need and that are not there.
    """
    if found := lost_stages(cfg, run_dir):
        raise outputs.lost(run_dir, {str(ref): changed for ref, changed in found.items()})
    todo, absent = list[Ref](), list[UserError]()
    for ref in pipeline(cfg):
        stage = load(ref.stage)
        inputs = stage.inputs(cfg, ref.iteration).values()
        waits = any(other in todo for other in inputs)
        if waits:
            refuse_other_settings(stage, cfg, ref.iteration, run_dir)
        if waits or state(stage, cfg, ref.iteration, run_dir) != "done":
            todo.append(ref)
            absent += _error_of(check_stage, stage, cfg, ref.iteration)
    if todo:
        absent += [*_error_of(check_reuse, cfg.run.reuse), *_error_of(check_root, run_dir)]
    raise_all(run_dir, absent, "its stages would not start:")
    return todo


def check_settings(cfg: Config, run_dir: Path) -> None:
    """Raises StaleError for the first stage of the run that was made or begun under other settings: before they become the
    run's, also where only one stage is to be run."""
    for ref in pipeline(cfg):
        refuse_other_settings(load(ref.stage), cfg, ref.iteration, run_dir)


def _error_of(check: Callable[..., None], *arguments: object) -> list[UserError]:
    try:
        check(*arguments)
    except UserError as error:
        return [error]
    return []


def check_stage(stage: Stage, cfg: Config, iteration: int) -> None:
    """Raises UserError for a file, template, program or key that the stage will need and that is not there or not usable.

    Everything of the user's that a stage reads enters its identity, so making the identity looks at all of it (not with
    cluster.check_paths=false: then only the nodes have it).
    """
    stage.check(cfg)
    if cfg.cluster.check_paths:
        stage.identity(cfg, iteration)
    if stage.name in cfg.api.stages and not any(cfg.api.key_variable in line for line in cfg.cluster.setup):
        from nemo_srlm.generate.openai_engine import check_endpoint  # imports an HTTP library

        check_endpoint(cfg.api)


def check_root(run_dir: Path) -> None:
    """Raises ConfigError where the run's directory would lie below a file."""
    place = run_dir
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise ConfigError("run.root", f"{place} is no directory", "a directory, or nothing", "set another run.root")


def check_reuse(other: str) -> None:
    """Raises ConfigError where run.reuse is not the directory of a run."""
    if other and not (Path(other) / RESOLVED_CONFIG).is_file():
        raise ConfigError(
            "run.reuse",
            f"{other} has no {RESOLVED_CONFIG}",
            "the directory of another run",
            "correct it or leave it out",
        )


def step_of(cfg: Config, ref: Ref) -> Step:
    stage = load(ref.stage)
    return Step((ref,), stage.kind, stage.shards(cfg))


def fuse(cfg: Config, refs: list[Ref]) -> list[Step]:
    """Neighbouring stages that can share a process, as one step. Training and sharded stages stand alone, and so does a report:
    nothing waits for it, and it waits for evaluations that a neighbour need not wait for."""
    steps: list[Step] = []
    for ref in refs:
        step = step_of(cfg, ref)
        last = steps[-1] if steps else None
        alone = load(ref.stage).derived or (last is not None and load(last.refs[-1].stage).derived)
        if (
            last
            and not alone
            and step.kind in FUSABLE
            and last.kind in FUSABLE
            and step.num_shards == 1 == last.num_shards
        ):
            kind: Kind = "generate" if "generate" in (last.kind, step.kind) else "cpu"
            steps[-1] = Step((*last.refs, ref), kind, 1)
        else:
            steps.append(step)
    return steps


def is_done(run_dir: Path, ref: Ref) -> bool:
    """Whether the stage has a manifest: for launchers that watch it being made, several times a second."""
    return (stage_directory(run_dir, ref) / manifest.NAME).exists()
