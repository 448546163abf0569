"""What a finished checkpoint directory looks like from outside: its mark_complete, and the newest complete one. No torch.

`checkpoint/` of a stage holds `step_00000200/` while training and `final/` (weights only) when it is done; beside them
`weights_00000200/` (weights only) for every checkpoint that the stage select will compare, or `best/`. A directory is
complete when it bears its name and every file has the size that `complete.json`, written last, says.
"""

import json
import os
import warnings
from pathlib import Path

from nemo_srlm.errors import CheckpointError

COMPLETE = "complete.json"
FINAL = "final"
BEST = "best"  # while training with keep_best: the weights of the lowest validation loss so far
BEST_OF = "best.json"  # in those weights: their step and loss


def mark_complete(directory: Path) -> None:
    """Writes the list of files and sizes."""
    sizes = {path.name: path.stat().st_size for path in sorted(directory.iterdir())}
    with (directory / COMPLETE).open("w", encoding="utf-8") as f:
        json.dump(sizes, f, indent=1)
        f.flush()
        os.fsync(f.fileno())


def incomplete_reason(directory: Path) -> str:
    """ "" for a complete checkpoint directory, else what is wrong with it."""
    try:
        sizes = json.loads((directory / COMPLETE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        return f"no readable {COMPLETE} ({error})"
    for name, size in sizes.items():
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
    return ""


def latest(directory: Path) -> Path | None:
    """`final`, else the newest complete training checkpoint, else None. Torn ones are skipped with a warning."""
    for path in [directory / FINAL, *sorted(directory.glob("step_*"), reverse=True)]:
        if not path.is_dir():
            continue
        reason = incomplete_reason(path)
        if not reason:
            return path
        warnings.warn(f"{path}: {reason}; skipped for an older checkpoint", stacklevel=2)
    return None


def kept_name(step: int) -> str:
    return f"weights_{step:08d}"


def to_compare(directory: Path, every: int, steps: int) -> list[Path]:
    """The weights that a training of `steps` steps kept every `every` of them, oldest first, and `final`.

    Raises CheckpointError when one is missing or torn.
    """
    found = [*(directory / kept_name(step) for step in range(every, steps, every)), directory / FINAL]
    for path in found:
        if reason := incomplete_reason(path):
            raise CheckpointError(
                path, reason, "a complete checkpoint", "remove the stage's directory to train it again"
            )
    return found
