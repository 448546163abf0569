"""`nemo-srlm verify`: reads every output of a run's finished stages and compares it with what was recorded."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from nemo_srlm.config.compose import load_resolved_config
from nemo_srlm.core import manifest, outputs
from nemo_srlm.core.outputs import Output
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.stage import Ref, stage_directory
from nemo_srlm.core.terminal import console
from nemo_srlm.stages.common.exporting import digests_of_card


@dataclass(frozen=True)
class Verified:
    """What was found of one finished stage."""

    stage: str
    files: int
    size: int  # bytes, as recorded
    size_only: list[str]  # files without a recorded digest
    changed: list[str]


def recorded(directory: Path, done: manifest.Manifest) -> dict[str, Output]:
    """The manifest's outputs; weights without a digest there get that of the export's card."""
    card = digests_of_card(directory)
    return {name: replace(o, sha256=o.sha256 or card.get(name)) for name, o in done.outputs.items()}


def verified(run_dir: Path) -> Iterator[Verified]:
    """The finished stages of a run, in its order. Raises ConfigError when `run_dir` is not the directory of a run."""
    for ref in pipeline(load_resolved_config(run_dir)):
        yield from _of_stage(run_dir, ref)


def _of_stage(run_dir: Path, ref: Ref) -> Iterator[Verified]:
    directory = stage_directory(run_dir, ref)
    if done := manifest.read(directory):
        found = recorded(directory, done)
        changed = outputs.changes(directory, found, digests=True)
        size_only = [name for name, output in found.items() if output.sha256 is None]
        yield Verified(str(ref), len(found), sum(o.bytes or 0 for o in found.values()), size_only, changed)


def table(run_dir: Path, found: list[Verified]) -> Table:
    out = Table(
        title=f"{escape(str(run_dir))}: outputs of {len(found)} finished stages", title_justify="left", box=None,
        pad_edge=False,
    )  # fmt: skip
    for name in ("stage", "files", "MiB", ""):
        out.add_column(name, justify="right" if name in ("files", "MiB") else "left", overflow="fold")
    for one in found:
        words = ", ".join(one.changed) or "as recorded"
        if one.size_only:
            words += f"; {len(one.size_only)} by size alone, no digest recorded (run.digest_weights)"
        if not one.files:
            words = "not recorded"
        out.add_row(
            one.stage,
            str(one.files),
            f"{one.size / 2**20:,.1f}",
            f"[{'red' if one.changed else 'green'}]{escape(words)}[/]",
        )
    return out


def verify(run_dir: Path) -> int:
    """The command: prints a row per finished stage. Raises LostError when anything differs."""
    found = list(verified(run_dir))
    console().print(table(run_dir, found))
    if bad := {one.stage: one.changed for one in found if one.changed}:
        raise outputs.lost(run_dir, bad)
    return 0
