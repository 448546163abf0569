"""progress.json: how far a worker is. For people, `status` and the detection of hangs; never read by a stage."""

import dataclasses
import json
import os
import time
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_srlm.core.files import decoded, read_json
from nemo_srlm.errors import DataError


@dataclass(frozen=True)
class _Written:
    """What `Progress` writes."""

    done: float
    total: float
    unit: str
    rate: float
    info: dict[str, float | str]
    eta: float | None
    started: float
    updated: float
    pid: int
    host: str


def progress_file(directory: Path, shard: int = 0) -> Path:
    return directory / ("progress.json" if shard == 0 else f"progress-{shard:05d}.json")


def read_one(path: Path) -> dict[str, Any] | None:
    """One worker's progress; None when there is none yet, while the file is being replaced, and where it is damaged."""
    try:
        return dataclasses.asdict(decoded(read_json(path), _Written, path))
    except (OSError, DataError):
        return None


def read_progress(directory: Path) -> dict[str, Any] | None:
    """Progress of a stage, summed over its shards; None when there is none yet."""
    found = [one for path in sorted(directory.glob("progress*.json")) if (one := read_one(path)) is not None]
    if not found:
        return None
    total = {**found[-1]}
    for key in ("done", "total", "rate"):
        total[key] = sum(p[key] for p in found)
    total["eta"] = (total["total"] - total["done"]) / total["rate"] if total["rate"] > 0 else None
    total["updated"] = max(p["updated"] for p in found)
    return total


class Progress:
    """Writes a worker's progress file, at most twice a second."""

    INTERVAL = 0.5  # seconds between two writes

    def __init__(self, directory: Path, shard: int = 0) -> None:
        self.path = progress_file(directory, shard)
        self.started = time.time()
        self._first: float | None = None  # what an earlier attempt had done already: not part of the rate
        self._written = 0.0
        self._shown: Set[str] = frozenset()  # the names of the info that was written last

    def update(self, done: float, total: float, unit: str = "items", **info: float | str) -> None:
        """`done` of `total` in `unit`; `info` is shown as it is (loss, accepted, ...); another kind of it at once."""
        now = time.time()
        if self._first is None:
            self._first = done
        if now - self._written < self.INTERVAL and done < total and info.keys() == self._shown:
            return
        self._written, self._shown = now, info.keys()
        rate = (done - self._first) / max(now - self.started, 1e-6)
        data = {
            "done": done, "total": total, "unit": unit, "rate": rate, "info": info,
            "eta": (total - done) / rate if rate > 0 else None,
            "started": self.started, "updated": now, "pid": os.getpid(), "host": os.uname().nodename,
        }  # fmt: skip
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(data), encoding="utf-8")
        os.replace(temporary, self.path)
