"""`nemo-srlm redo`: removes finished or begun stages and everything that depends on them, so that they are made again."""

import argparse
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from nemo_srlm.config.compose import load_resolved_config
from nemo_srlm.config.schema import Config
from nemo_srlm.core.commands import about
from nemo_srlm.core.exit_codes import FAILED
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.stage import Ref, run_directory, stage_directory
from nemo_srlm.core.terminal import ask, say
from nemo_srlm.errors import UserError
from nemo_srlm.launch.arguments import stage_ref
from nemo_srlm.launch.lock import locked
from nemo_srlm.launch.plan import lost_stages
from nemo_srlm.launch.slurm.submit import refuse_if_active
from nemo_srlm.stages import load

LOST = "first remove finished stages whose outputs are missing or have changed, and what depends on them (as `redo --lost --yes`)"
TRASH = ".removed"  # beside the stage, on its disk: a stage is renamed into it, so that a kill leaves it whole or gone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", nargs="*", metavar="iterT/STAGE", help="for example iter1/pairs; after the stages, a run directory "
        "(default: the latest run)",
    )  # fmt: skip
    parser.add_argument(
        "--lost", action="store_true", help="all finished stages whose outputs are missing or have changed"
    )
    parser.add_argument(
        "--only", action="store_true", help="keep what depends on them: for a stage that will make the same bytes again, as a "
        "conversion does",
    )  # fmt: skip
    parser.add_argument("--yes", "-y", action="store_true", help="remove without asking")


def split(words: Sequence[str]) -> tuple[list[Ref], Path | None]:
    """(stages, run directory or None) of the command line. Raises UserError."""
    refs: list[Ref] = []
    for place, word in enumerate(words):
        try:
            refs.append(stage_ref(word))
        except argparse.ArgumentTypeError as error:
            if place == len(words) - 1 and Path(word).is_dir():
                return refs, Path(word)
            expected = "iterT/STAGE, such as iter1/judge, or, as the last word, the directory of a run"
            raise UserError("redo", f"{word!r} is neither", expected) from error
    return refs, None


def dependents(cfg: Config, refs: Collection[Ref]) -> list[Ref]:
    """`refs` and every stage that reads one of them, directly or not, in the pipeline's order."""
    found = dict.fromkeys(refs)
    for ref in pipeline(cfg):
        if any(other in found for other in load(ref.stage).inputs(cfg, ref.iteration).values()):
            found[ref] = None
    return [ref for ref in pipeline(cfg) if ref in found]


def redo(run_dir: Path, refs: Collection[Ref], *, lost: bool = False, only: bool = False, yes: bool = False) -> bool:
    """Shows what would be removed, asks, and removes it; False when the answer was no.

    Raises UserError for a stage that the run does not have, and while the run is being executed.
    """
    cfg = load_resolved_config(run_dir)
    with locked(run_dir):
        refuse_if_active(run_dir)
        killed = [run_dir / TRASH, *run_dir.glob(f"iter*/{TRASH}")]  # of removals by 0.1, and by this version
        for left in killed:
            shutil.rmtree(left, ignore_errors=True)
        wanted = [*refs, *(lost_stages(cfg, run_dir) if lost else ())]
        if unknown := [ref for ref in wanted if ref not in pipeline(cfg)]:
            raise UserError(unknown[0], f"no stage of {run_dir}", f"one that `{about('status', run_dir)}` lists")
        every = wanted if only else dependents(cfg, wanted)
        found = [ref for ref in every if os.path.lexists(stage_directory(run_dir, ref))]
        if not found:
            say(f"{run_dir}: nothing to remove")
            return True
        say(f"{run_dir}: to be removed, and made again by the next `run` or `submit`:")
        for ref in found:
            say(f"  {ref!s:28} {_describe(run_dir, ref)}")
        if not (yes or _agreed()):
            return False
        for ref in reversed(found):  # what reads a stage goes before it
            _remove(run_dir, ref)
        say(f"removed {len(found)} stages")
        return True


def redo_lost(cfg: Config) -> None:
    """For `run --redo-lost` and `submit --redo-lost`: the finished stages with lost outputs and what depends on them."""
    if (run_dir := run_directory(cfg)).is_dir():
        redo(run_dir, (), lost=True, yes=True)


def _agreed() -> bool:
    try:
        return ask("Remove these?")
    except EOFError as error:
        raise UserError(
            "redo", "nothing was removed: nobody answered", remedy="add --yes to remove without asking"
        ) from error


def _describe(run_dir: Path, ref: Ref) -> str:
    directory = stage_directory(run_dir, ref)
    if directory.is_symlink():
        return f"a link to {os.readlink(directory)}; only the link is removed"
    if not directory.is_dir():
        return "no directory"
    files = [path for path in directory.rglob("*") if path.is_file()]
    links = [
        str(path.parents[1]) for path in run_dir.resolve().parent.glob(f"*/iter{ref.iteration}/{ref.stage}")
        if path.is_symlink() and path.resolve() == directory.resolve()
    ]  # fmt: skip
    shared = f"; {', '.join(links)} has a link to it and will make its own" if links else ""
    return f"{len(files)} files, {sum(path.stat().st_size for path in files) / 2**20:,.1f} MiB{shared}"


def _remove(run_dir: Path, ref: Ref) -> None:
    directory = stage_directory(run_dir, ref)
    if directory.is_symlink() or not directory.is_dir():
        directory.unlink()
        return
    trash = directory.parent / TRASH
    trash.mkdir(exist_ok=True)
    os.replace(directory, trash / ref.stage)
    shutil.rmtree(trash)


def run(args: argparse.Namespace, latest_run: Callable[[], Path]) -> int:
    """The command. `latest_run` gives the directory where none is named. Raises UserError when no stage is named."""
    refs, run_dir = split(args.words)
    if not refs and not args.lost:
        raise UserError("redo", "no stage named", "iterT/STAGE, for example iter1/pairs, or --lost")
    return 0 if redo(run_dir or latest_run(), refs, lost=args.lost, only=args.only, yes=args.yes) else FAILED
