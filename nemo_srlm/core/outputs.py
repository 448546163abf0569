"""The outputs of a finished stage: what its manifest records of them, and whether they are still so.

Existence and size are looked at whenever a stage is asked whether it is done: nothing is read. Digests are compared when
another stage is about to read the files, and by `nemo-srlm verify`.
"""

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nemo_srlm.core.commands import about
from nemo_srlm.core.files import content_digest, file_digest
from nemo_srlm.errors import LostError

DIGEST_LIMIT = 64 * 2**20  # bytes; larger files (weights) have a digest with run.digest_weights alone
BOOKKEEPING = {"parts", "logs"}  # folders of a stage that are no outputs
CARD = "README.md"  # of an export: its figures come later, and people fill in the licence
SHOWN = 3  # changes of a stage that a message lists


@dataclass(frozen=True)
class Output:
    """A file as its stage left it. None: not recorded."""

    bytes: int | None = None
    sha256: str | None = None


def describe(directory: Path, manifest: str, weights: bool = False) -> dict[str, Output]:
    """Every file under `directory` except bookkeeping (`manifest`, parts, logs, progress), cards, and what a killed writer left.

    `weights`: also files above DIGEST_LIMIT get a digest.
    """
    out: dict[str, Output] = {}
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        unfinished = any(
            part.startswith(".tmp-") or (part[0] == "." and part.endswith(".tmp")) for part in relative.parts
        )
        bookkeeping = relative.name in (manifest, CARD) or relative.name.startswith("progress")
        if unfinished or bookkeeping or relative.parts[0] in BOOKKEEPING or not path.is_file():
            continue
        size = path.stat().st_size
        out[str(relative)] = Output(size, file_digest(path) if weights or size <= DIGEST_LIMIT else None)
    return out


def changes(directory: Path, outputs: Mapping[str, Output], digests: bool = False) -> list[str]:
    """What is no longer as recorded: `pairs.jsonl is missing`. Looks at existence and size, with `digests` also at content."""
    found = []
    for name, output in outputs.items():
        path = directory / name
        if path.name == CARD:  # manifests of earlier versions list it
            continue
        if (size := _size(path, output.bytes)) is None:
            found.append(f"{name} is missing")
        elif output.bytes is not None and size != output.bytes:
            found.append(f"{name} has {size:,} bytes, not {output.bytes:,}")
        elif digests and output.sha256 is not None and content_digest(path) != output.sha256:
            found.append(f"{name} has another content")
    return found


def _size(path: Path, recorded: int | None) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        size = path.stat().st_size if path.is_file() else None
        if size is not None and recorded in (None, size):
            return size
        # NFS may have answered from a cache; it asks the server when a file is opened. A pipe would block for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        return found.st_size if stat.S_ISREG(found.st_mode) else None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def redo_command(run_dir: Path, stages: Iterable[str]) -> str:
    """What a user types to have stages (iterT/STAGE) made again."""
    return about("redo", run_dir, *stages)


def lost(run_dir: Path, found: Mapping[str, list[str]]) -> LostError:
    """The error about finished stages (iterT/STAGE) with changed outputs: what has changed, and how to make them again."""
    lines = []
    for stage, changed in found.items():
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        lines.append(f"{stage}: {', '.join(changed[:SHOWN])}{more}")
    return LostError(
        run_dir, "outputs of finished stages are not as these left them:\n    " + "\n    ".join(lines),
        remedy=f"\n  restore them, or make them again: `{redo_command(run_dir, found)}` shows and removes these "
        "stages and what depends on them; then repeat your command",
    )  # fmt: skip
