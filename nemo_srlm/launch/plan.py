"""What remains of a run, as data. local.py executes it on this machine, slurm.py turns it into jobs."""

from dataclasses import dataclass
from pathlib import Path

from nemo_srlm.config.schema import Config
from nemo_srlm.core import manifest
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.stage import Kind, Ref, stage_directory, state
from nemo_srlm.stages import load

FUSABLE = ("cpu", "generate")  # neighbours of these kinds may share a process (and an engine)


@dataclass(frozen=True)
class Step:
    """Stages that one process (or group of processes) runs, one after another."""

    refs: tuple[Ref, ...]
    kind: Kind
    num_shards: int

    def __str__(self) -> str:
        return " ".join(map(str, self.refs))


def remaining(cfg: Config, run_dir: Path) -> list[Ref]:
    """Stage instances that are not done, in order. Raises StaleError for the first that was made otherwise,
    and UserError for a file or program that a remaining stage will need and that is not there.

    What stands behind an unfinished stage cannot be judged yet: it is in the list, and judged when its turn comes.
    """
    todo: list[Ref] = []
    for ref in pipeline(cfg):
        stage = load(ref.stage)
        inputs = stage.inputs(cfg, ref.iteration).values()
        if any(other in todo for other in inputs) or state(stage, cfg, ref.iteration, run_dir) != "done":
            stage.check(cfg)
            todo.append(ref)
    return todo


def fuse(cfg: Config, refs: list[Ref]) -> list[Step]:
    """Neighbouring stages that can share a process, as one step. Training and sharded stages stand alone."""
    steps: list[Step] = []
    for ref in refs:
        stage = load(ref.stage)
        shards = stage.shards(cfg)
        last = steps[-1] if steps else None
        if last and stage.kind in FUSABLE and last.kind in FUSABLE and shards == 1 == last.num_shards:
            kind: Kind = "generate" if "generate" in (last.kind, stage.kind) else "cpu"
            steps[-1] = Step((*last.refs, ref), kind, 1)
        else:
            steps.append(Step((ref,), stage.kind, shards))
    return steps


def is_done(run_dir: Path, ref: Ref) -> bool:
    return (stage_directory(run_dir, ref) / manifest.NAME).exists()
