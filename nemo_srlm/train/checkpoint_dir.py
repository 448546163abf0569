"""What a checkpoint directory looks like from outside: file names, the mark of a complete one, the newest. No torch.

A training stage writes into its `checkpoint/`:
- `step_00000200/`: weights and optimizer, to resume from; removed when the training is done,
- `final/`: weights only, the result,
- `best/`: weights only, those of the lowest validation loss so far (keep_best); renamed to `final/` at the end,
- `weights_00000200/`: weights only, for the stage select to compare.
A directory is complete when it has its final name and every file has the size that `complete.json`, written last, lists.
"""

import json
import os
import warnings
from pathlib import Path

from nemo_srlm.core.files import decoded, read_json
from nemo_srlm.errors import CheckpointError, DataError

COMPLETE_FILE = "complete.json"  # file name -> bytes
FINAL = "final"
BEST = "best"
BEST_FILE = "best.json"  # in `best/`, and in the `final/` made from it: its step and validation loss


def step_name(step: int) -> str:
    return f"step_{step:08d}"


def weights_name(step: int) -> str:
    return f"weights_{step:08d}"


def mark_complete(directory: Path) -> None:
    """Writes the list of files and sizes. Nothing may be written into the directory afterwards."""
    sizes = {path.name: path.stat().st_size for path in sorted(directory.iterdir())}
    with (directory / COMPLETE_FILE).open("w", encoding="utf-8") as f:
        json.dump(sizes, f, indent=1)
        f.flush()
        os.fsync(f.fileno())


def incomplete_reason(directory: Path) -> str:
    """ "" for a complete checkpoint directory, else what is wrong with it."""
    try:
        sizes = decoded(read_json(directory / COMPLETE_FILE), dict[str, int], directory / COMPLETE_FILE)
    except DataError as error:
        return f"no readable {COMPLETE_FILE} ({error.found})"
    for name, size in sizes.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
    return ""


def latest(directory: Path) -> Path | None:
    """`final/`, else the newest complete training checkpoint, else None. Incomplete ones are skipped with a warning."""
    for path in [directory / FINAL, *sorted(directory.glob("step_*"), reverse=True)]:
        if not path.is_dir():
            continue
        reason = incomplete_reason(path)
        if not reason:
            return path
        warnings.warn(f"{path}: {reason}; skipped for an older checkpoint", stacklevel=2)
    return None


def superseded(directory: Path, keep_last: int) -> list[Path]:
    """The training checkpoints that go where the newest `keep_last` complete ones stay: an incomplete one takes no place."""
    every = sorted(directory.glob("step_*"))
    kept = [path for path in every if not incomplete_reason(path)][-keep_last:]
    return [path for path in every if path not in kept]


def is_finished(directory: Path) -> bool:
    """Whether `directory` (a stage's checkpoint/) holds the final weights."""
    found = latest(directory)
    return found is not None and found.name == FINAL


def weights_to_compare(directory: Path, every: int, steps: int) -> list[Path]:
    """The weights that a training of `steps` steps kept every `every` steps, oldest first, and `final/`.

    Raises CheckpointError when one is missing or incomplete.
    """
    found = [*(directory / weights_name(step) for step in range(every, steps, every)), directory / FINAL]
    for path in found:
        if reason := incomplete_reason(path):
            raise CheckpointError(
                path, reason, "a complete checkpoint", "remove the stage's directory to train it again"
            )
    return found
