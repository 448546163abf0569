"""Detects a hung attempt: progress.json does not change for longer than its phase allows (cluster.hang)."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_srlm.core.progress import progress_file, read_one
from nemo_srlm.core.stage import Ref, stage_directory
from nemo_srlm.launch.plan import is_done

PAUSE = 30.0  # seconds between two looks, after which the job was suspended: the launcher looks twice a second


class HangDetector:
    """How long the progress file has not changed, and how long that may last in the present phase.

    Phase `setup` lasts until the first item or step of this attempt: stages say how much is done before they load a
    model. Then `work`, and `save` while training saves or when all is done.
    """

    def __init__(self, run_dir: Path, refs: Sequence[Ref], limits: Mapping[str, float], shard: int) -> None:
        self.run_dir, self.refs, self.limits, self.shard = run_dir, list(refs), limits, shard
        self.looked = time.monotonic()
        self._begin(self.refs[0])

    def _begin(self, ref: Ref) -> None:
        self.ref, self.phase, self.changed = ref, "setup", time.monotonic()
        self.first = self.progress = self._read()

    def _read(self) -> dict[str, Any] | None:
        return read_one(progress_file(stage_directory(self.run_dir, self.ref), self.shard))

    def _update(self) -> None:
        if is_done(self.run_dir, self.ref) and self.ref != self.refs[-1]:
            self._begin(self.refs[self.refs.index(self.ref) + 1])
            return
        found = self._read()
        if found is None or (self.progress is not None and found["updated"] == self.progress["updated"]):
            return
        self.first, self.progress, self.changed = self.first or found, found, time.monotonic()
        if found["done"] >= found["total"] or found["info"].get("phase") in ("save", "verify"):
            self.phase = "save"
        else:
            self.phase = "setup" if found["done"] == self.first["done"] else "work"

    def reason(self) -> str:
        """Why the attempt counts as hung; "" while it does not."""
        now = time.monotonic()
        if now - self.looked > PAUSE:  # a pause of all processes (PreemptMode=SUSPEND) is no hang
            self.changed += now - self.looked
        self.looked = now
        self._update()
        limit, still = self.limits[self.phase], now - self.changed
        if limit and still > limit:
            return f"no progress for {still:.0f} s in {self.ref} (phase {self.phase}, limit {limit} s)"
        return ""
