"""The file metrics.jsonl of a training stage: one line per logged step or validation."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_srlm.core.trackers import Trackers

METRICS = "metrics.jsonl"


class MetricsLog:
    """Appends lines to metrics.jsonl and passes them to the trackers.

    A resumed training removes the lines of steps after its checkpoint first: it will compute those steps again.
    """

    def __init__(self, path: Path, first_step: int, trackers: Trackers) -> None:
        self._trackers = trackers
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n") and json.loads(line)["step"] <= first_step:
                    kept.append(line)
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(kept) if first_step else "", encoding="utf-8")
        os.replace(temporary, path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._trackers.line(line)

    def close(self) -> None:
        self._file.close()
        self._trackers.close()


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Values with eight significant digits."""
    return {name: float(f"{value:.8g}") for name, value in values.items()}
