"""What a stage is, and the rules of running one: an absent input or a stale result is an error, a done stage is skipped."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.config.schema import Config
from nemo_srlm.core import manifest, outputs
from nemo_srlm.core.commands import composed
from nemo_srlm.core.files import decoded, read_json, write_json
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.slot import Slot
from nemo_srlm.core.terminal import say
from nemo_srlm.errors import ConfigError, DataError, StaleError, UserError

Kind = Literal["cpu", "convert", "train", "generate"]  # convert: a checkpoint in or out, one process with Megatron
State = Literal["done", "partial", "missing"]

PLAN = "plan.json"  # the identity under which the stage was begun


@dataclass(frozen=True)
class Ref:
    """A stage instance: its name and the iteration that it belongs to."""

    stage: str
    iteration: int

    def __str__(self) -> str:
        return f"iter{self.iteration}/{self.stage}"

    @classmethod
    def parse(cls, text: str) -> "Ref":
        """`iter1/judge` -> Ref("judge", 1). Raises ValueError."""
        iteration, _, stage = text.partition("/")
        return cls(stage, int(iteration.removeprefix("iter")))


@dataclass(frozen=True)
class Context:
    """All that a stage's code gets. `inputs` maps the names that the stage declared to directories of finished stages."""

    cfg: Config
    iteration: int
    dir: Path
    inputs: Mapping[str, Path]
    progress: Progress
    shard: int = 0
    num_shards: int = 1
    slot: Slot = field(default_factory=Slot)  # of the worker process, which closes it


def _one_shard(cfg: Config) -> int:
    return 1


def _nothing(cfg: Config) -> None:
    return None


@dataclass(frozen=True)
class Stage:
    """A file-to-file step.

    `inputs` names the stages that it reads, `identity` is what its fingerprint is made of besides. `run` does the work of
    one shard (or one training rank) in a worker process and imports heavy modules inside. `finalize` runs after all
    shards, checks that the work is complete and returns the manifest's metrics. `check` raises UserError before the run
    begins for what would fail hours later, such as an absent file.
    """

    name: str
    kind: Kind
    inputs: Callable[[Config, int], dict[str, Ref]]
    identity: Callable[[Config, int], dict[str, Any]]
    run: Callable[[Context], None]
    finalize: Callable[[Context], dict[str, Any]]
    shards: Callable[[Config], int] = field(default=_one_shard)
    check: Callable[[Config], None] = field(default=_nothing)
    derived: bool = False  # made anew when its inputs change, where other stages raise StaleError (the report)
    version: int = 1

    @property
    def can_shard(self) -> bool:
        """Whether its items can be split into shards."""
        return self.shards is not _one_shard


def run_directory(cfg: Config) -> Path:
    return Path(cfg.run.root) / cfg.run.name


def stage_directory(run_dir: Path, ref: Ref) -> Path:
    return run_dir / f"iter{ref.iteration}" / ref.stage


def check_outside_stages(out: Path) -> None:
    """Raises UserError for an output that lies in the directory of a stage, whose files it may replace."""
    for folder in Path(os.path.realpath(out)).parents:
        if re.fullmatch(r"iter\d+", folder.parent.name) and any(
            (folder / name).exists() for name in (manifest.NAME, PLAN)
        ):
            raise UserError(
                "--out", f"{out} lies in the directory of the stage {folder}", "a place outside of every stage"
            )


def identity_of(
    stage: Stage, cfg: Config, iteration: int, run_dir: Path, settings: Sequence[str] = ()
) -> dict[str, Any]:
    """What the fingerprint is made of. Raises DataError when an input stage is not done; `settings`: words of its command."""
    inputs = {}
    for name, ref in stage.inputs(cfg, iteration).items():
        done = manifest.read(stage_directory(run_dir, ref))
        if done is None:
            one = composed("stage", run_dir, ref.stage, "--iteration", str(ref.iteration), settings=settings)
            raise DataError(
                f"iter{iteration}/{stage.name}", f"its input {ref} is not done",
                remedy=f"run `{composed('run', run_dir, settings=settings)}`, or `{one}` first",
            )  # fmt: skip
        inputs[name] = done.fingerprint
    return _identity(stage, cfg, iteration, inputs)


def _identity(stage: Stage, cfg: Config, iteration: int, inputs: dict[str, str]) -> dict[str, Any]:
    own = json.loads(manifest.canonical(stage.identity(cfg, iteration)))  # tuples become lists, as they will be read
    return {"stage": stage.name, "iteration": iteration, "version": stage.version, "config": own, "inputs": inputs}


def changed_outputs(run_dir: Path, ref: Ref, digests: bool = False) -> list[str]:
    """How the outputs of a finished stage differ from its manifest; [] for a stage that is not finished."""
    directory = stage_directory(run_dir, ref)
    done = manifest.read(directory)
    return [] if done is None else outputs.changes(directory, done.outputs, digests)


def check_inputs(stage: Stage, cfg: Config, iteration: int, run_dir: Path) -> None:
    """Raises LostError when a file of an input is missing, or differs from the digest that was recorded."""
    check_unchanged(run_dir, dict.fromkeys(stage.inputs(cfg, iteration).values()))


def check_unchanged(run_dir: Path, refs: Iterable[Ref]) -> None:
    """Raises LostError when a file of a finished stage among these is missing, or differs from the recorded digest."""
    if found := {str(ref): changed for ref in refs if (changed := changed_outputs(run_dir, ref, digests=True))}:
        raise outputs.lost(run_dir, found)


def _recorded(directory: Path) -> dict[str, Any] | None:
    """The identity under which a stage was finished or begun."""
    if finished := manifest.read(directory):
        return finished.identity
    if directory.is_symlink():  # from run.reuse: the other run has removed what was linked
        return None
    plan, remedy = directory / PLAN, f"remove {directory} to redo the stage"
    if not plan.exists():
        return None
    return decoded(read_json(plan, remedy), dict[str, Any], plan, "the identity of a stage", remedy)


def _refuse_other(run_dir: Path, ref: Ref, was: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises StaleError with the field diff where the two identities differ."""
    if was == wanted:
        return
    # the settings by the names that a user gives them: dpo.beta, not config.dpo.beta
    lines = [line.removeprefix("config.") for line in manifest.field_diff(was, wanted)]
    raise StaleError(
        stage_directory(run_dir, ref), "made under other settings or inputs:\n    " + "\n    ".join(lines),
        remedy="\n  set the old values again, or start a new run (run.name=...), or make them again: "
        f"`{outputs.redo_command(run_dir, [str(ref)])}` removes the stage and what depends on it",
    )  # fmt: skip


def refuse_other_settings(stage: Stage, cfg: Config, iteration: int, run_dir: Path) -> None:
    """Raises StaleError for a finished or begun stage of other settings, as far as that shows before its inputs are done.
    A stage that reads a file which is not here is left to `state`."""
    ref = Ref(stage.name, iteration)
    was = _recorded(stage_directory(run_dir, ref))
    if was is None or stage.derived:
        return
    inputs = {}
    for name, other in stage.inputs(cfg, iteration).items():
        done, before = manifest.read(stage_directory(run_dir, other)), was.get("inputs", {}).get(name, "")
        # not done: it may become what it was, unless that is another stage's
        same = before and not _has_fingerprint(run_dir, before)
        inputs[name] = done.fingerprint if done else before if same else str(other)
    try:
        wanted = _identity(stage, cfg, iteration, inputs)
    except UserError:
        return
    _refuse_other(run_dir, ref, was, wanted)


def _has_fingerprint(run_dir: Path, fingerprint: str) -> bool:
    """Whether a finished stage of the run has it, of its present pipeline or not."""
    every = (manifest.read(path.parent) for path in run_dir.glob(f"iter*/*/{manifest.NAME}"))
    return any(done is not None and done.fingerprint == fingerprint for done in every)


def state(stage: Stage, cfg: Config, iteration: int, run_dir: Path) -> State:
    """Done, partial or missing. Raises StaleError with the field diff when it was made under another identity, LostError
    when it was finished and its outputs are no longer there."""
    ref = Ref(stage.name, iteration)
    directory = stage_directory(run_dir, ref)
    finished, was = manifest.read(directory), _recorded(directory)
    if was is None:
        return "missing"
    wanted = identity_of(stage, cfg, iteration, run_dir)
    if was != wanted and stage.derived:
        return "missing"
    _refuse_other(run_dir, ref, was, wanted)
    if finished is None:
        return "partial"
    if changed := outputs.changes(directory, finished.outputs):
        if stage.derived:
            return "missing"
        raise outputs.lost(run_dir, {str(ref): changed})
    return "done"


def context(run_dir: Path, stage: Stage, cfg: Config, iteration: int, shard: int = 0, num_shards: int = 1) -> Context:
    directory = stage_directory(run_dir, Ref(stage.name, iteration))
    directory.mkdir(parents=True, exist_ok=True)
    inputs = {name: stage_directory(run_dir, ref) for name, ref in stage.inputs(cfg, iteration).items()}
    return Context(cfg, iteration, directory, inputs, Progress(directory, shard), shard, num_shards)


def _started(directory: Path) -> Path:
    """Holds when the stage was begun first, in seconds since the epoch."""
    return directory / "logs" / "started"


def begin(stage: Stage, cfg: Config, iteration: int, run_dir: Path) -> Context:
    """Writes the stage's identity to plan.json, so that a later attempt under other settings is refused.

    Raises LostError when an input is no longer as its stage left it.
    """
    directory = stage_directory(run_dir, Ref(stage.name, iteration))
    if stage.derived and directory.is_symlink():  # version 0.1 linked it from run.reuse: its files are another run's
        directory.unlink()
    _drop_unfinished_link(directory)
    wanted = identity_of(stage, cfg, iteration, run_dir)
    check_inputs(stage, cfg, iteration, run_dir)
    ctx = context(run_dir, stage, cfg, iteration)
    plan, started = ctx.dir / PLAN, _started(ctx.dir)
    if stage.derived:
        for old in (ctx.dir / manifest.NAME, plan, started):
            old.unlink(missing_ok=True)
    if not plan.exists():
        write_json(plan, wanted)
    started.parent.mkdir(exist_ok=True)
    if not started.exists():
        write_atomic(started, repr(time.time()))
    return ctx


def finish(stage: Stage, ctx: Context, run_dir: Path) -> manifest.Manifest:
    """Runs `finalize` and writes the manifest last."""
    metrics = stage.finalize(ctx)
    for left in ctx.dir.glob(".*.tmp"):  # by writers that were killed: no other process works here any more
        left.unlink(missing_ok=True)
    identity = identity_of(stage, ctx.cfg, ctx.iteration, run_dir)
    done = manifest.Manifest(
        stage=stage.name,
        iteration=ctx.iteration,
        fingerprint=manifest.fingerprint(identity),
        identity=identity,
        outputs=outputs.describe(ctx.dir, manifest.NAME, ctx.cfg.run.digest_weights),
        metrics=metrics,
        provenance=manifest.provenance(float(_started(ctx.dir).read_text(encoding="utf-8"))),
    )
    manifest.write(ctx.dir, done)
    return done


def _drop_unfinished_link(directory: Path) -> None:
    """Removes a link from `run.reuse` whose stage the other run has removed. It may be making it anew: two runs would write
    into one directory."""
    if directory.is_symlink() and manifest.read(directory) is None:
        with suppress(FileNotFoundError, IsADirectoryError):  # another shard or node was faster
            directory.unlink()


def reuse(stage: Stage, cfg: Config, iteration: int, run_dir: Path) -> bool:
    """Links the finished stage of the run `run.reuse` when its identity is the same as here. True when it did.

    One whose outputs are no longer there is not linked. A derived stage is made anew: it also writes files outside its
    directory (the run's report.html). Raises ConfigError where there is no such run.
    """
    if not cfg.run.reuse or stage.derived:
        return False
    if not Path(cfg.run.reuse).is_dir():  # a relative path means another place where jobs work
        raise ConfigError("run.reuse", f"{cfg.run.reuse} is no directory here", "the directory of another run",
                          "write it as an absolute path")  # fmt: skip
    ref = Ref(stage.name, iteration)
    other = stage_directory(Path(cfg.run.reuse), ref)
    finished = manifest.read(other)
    if finished is None or finished.identity != identity_of(stage, cfg, iteration, run_dir):
        return False
    if changed := outputs.changes(other, finished.outputs):
        say(f"note: {other} is not reused: {changed[0]}", error=True)
        return False
    here = stage_directory(run_dir, ref)
    _drop_unfinished_link(here)
    if here.exists():
        if begun := [path.name for path in here.iterdir() if path.name != "logs"]:
            say(f"note: {other} is not linked: {here} was begun already ({', '.join(sorted(begun)[:3])})", error=True)
            return False
        shutil.rmtree(here)  # an attempt that failed before it began has left its logs/error
    here.parent.mkdir(parents=True, exist_ok=True)
    here.symlink_to(other.resolve(), target_is_directory=True)
    return True


def ready(stage: Stage, cfg: Config, iteration: int, run_dir: Path) -> bool:
    """True when the stage is done, or could be linked from `run.reuse`. Raises StaleError."""
    found = state(stage, cfg, iteration, run_dir)
    return found == "done" or (found == "missing" and reuse(stage, cfg, iteration, run_dir))
