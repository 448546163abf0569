"""Prints pip's constraints for an installation into an image that brings its own torch (containers/train.Dockerfile).

    python3 image_constraints.py tools/requirements > constraints.txt

What belongs to the image's CUDA stack keeps the version that is installed; for anything else the project's pins hold. Run by
the image's interpreter, so it needs the standard library alone.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import distributions
from pathlib import Path

# compiled against each other by the image's makers
KEPT = re.compile(
    r"(torch|pytorch-triton|triton|transformer-engine|apex|flash-attn|numpy|nvidia|cuda|cudnn|nccl|tensorrt)(-.*|\d.*|audio|vision|ao)?"
)
# pinned to versions that need numpy 2; beside an older numpy, which an image may have, pip takes the newest that fit
NEED_NUMPY_2 = frozenset({"ml-dtypes", "pandas"})


def normal(name: str) -> str:
    """A distribution's name as the index compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints(pins: Iterable[str], installed: Mapping[str, str]) -> list[str]:
    """Lines of a constraint file. `pins`: lines of ours; `installed`: name -> version of what the image holds."""
    kept = {normal(name): version for name, version in installed.items() if KEPT.fullmatch(normal(name))}
    free = NEED_NUMPY_2 if kept.get("numpy", "2").partition(".")[0] in ("0", "1") else frozenset()
    ours = [line.partition(" #")[0] for line in pins if re.match(r"[A-Za-z0-9]", line)]
    return [
        *(f"{name}=={kept[name]}" for name in sorted(kept)),
        *(line for line in ours if normal(line.partition("==")[0]) not in kept.keys() | free),
    ]


def main() -> None:
    pins = (Path(sys.argv[1]) / "constraints.txt").read_text(encoding="utf-8").splitlines()
    print("\n".join(constraints(pins, {found.metadata["Name"]: found.version for found in distributions()})))


if __name__ == "__main__":
    main()
