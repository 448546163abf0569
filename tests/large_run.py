"""Writes a large run, for tests and the benchmark of `status`: 30 iterations, 64 shards, 200,000 items."""

import json
import os
import shutil
import time
from pathlib import Path

from tests import synthetic_run

ITERATIONS, SHARDS, ITEMS = 30, 64, 200_000


def build(root: Path) -> Path:
    """All is done but the last iteration, whose judge is at work in all shards. Returns the run directory."""
    made = synthetic_run.build(root, iterations=ITERATIONS, until=2)
    for t in range(3, ITERATIONS):
        shutil.copytree(made / "iter2", made / f"iter{t}", copy_function=os.link)
    judge = made / f"iter{ITERATIONS}/judge"
    (judge / "parts").mkdir(parents=True)
    now = {"started": time.time(), "updated": time.time(), "pid": os.getpid(), "host": os.uname().nodename}
    for shard in range(SHARDS):
        number = ITEMS // SHARDS
        (judge / f"parts/{shard:05d}-of-{SHARDS:05d}.jsonl").write_text('{"id": "x"}\n' * number)
        data = {"done": number - 1, "total": number, "unit": "items", "rate": 2.0, "info": {}, "eta": 0.5, **now}
        (judge / ("progress.json" if not shard else f"progress-{shard:05d}.json")).write_text(json.dumps(data))
    return made
