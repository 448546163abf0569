"""metrics.jsonl of a training: one line a step."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_srlm.train.trackers import Tracker

METRICS = "metrics.jsonl"


class MetricsLog:
    """metrics.jsonl, one line a step, and its trackers. A resumed run drops the lines after its checkpoint and goes on."""

    def __init__(self, path: Path, first_step: int, tracker: Tracker) -> None:
        self._tracker = tracker
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
        self._tracker.log(line)

    def close(self) -> None:
        self._file.close()
        self._tracker.close()


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.8g}") for name, value in values.items()}
