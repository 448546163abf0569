"""Several engines on one machine: which GPUs each of them has, and their processes (generate.replicas).

With R replicas, shard k of n is R processes that take the shards k, k + n, ... k + (R - 1) n of n x R: an item belongs to
a shard by its position, so together they do exactly the items of k of n.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen

from nemo_srlm.config.schema import Config
from nemo_srlm.core import process
from nemo_srlm.core.stage import Ref, Stage
from nemo_srlm.errors import ConfigError

POLL = 0.2  # seconds between two looks at the processes
GRACE = 10.0  # seconds that a process gets to end; what it has finished is on disk


class ReplicaFailed(Exception):
    """A replica ended with an error, which stands in the stage's logs/error."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a replica ended with exit code {code}")
        self.code = code


def num_replicas(stage: Stage, cfg: Config) -> int:
    """Engines of one shard of the stage: 1 where its items cannot be dealt out, or an endpoint answers."""
    on_engine = stage.kind == "generate" and stage.name not in cfg.api.stages
    return cfg.generate.replicas if on_engine and stage.can_shard else 1


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by CUDA's names; none on a machine without."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(i) for i in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def gpus_of(index: int, num: int, each: int, gpus: Sequence[str]) -> dict[str, str]:
    """Environment that gives part `index` of `num` its `each` GPUs of `gpus`; nothing to say on a machine without.

    Raises ConfigError when there are too few.
    """
    if not gpus:
        return {}
    if num * each > len(gpus):
        raise ConfigError(
            "generate.replicas", f"{num} engines (or shards) side by side on {each} GPUs each, {len(gpus)} GPUs here",
            f"{num * each} GPUs", "lower generate.replicas, generate.tensor_parallel or the stage's shards",
        )  # fmt: skip
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index * each : (index + 1) * each])}


def shards_of(shard: int, num_shards: int, replicas: int) -> list[tuple[int, int]]:
    """(shard, number of shards) of each replica. The first one keeps the shard's own number: it shows the progress."""
    return [(shard + r * num_shards, num_shards * replicas) for r in range(replicas)]


def run(run_dir: Path, ref: Ref, shard: int, num_shards: int, cfg: Config) -> None:
    """Runs the replicas of a shard to their end. Raises ReplicaFailed; the others are stopped then."""
    parts, gpus = shards_of(shard, num_shards, cfg.generate.replicas), visible_gpus()
    workers: list[Popen[bytes]] = []
    try:
        for index, (part, of) in enumerate(parts):
            command = [sys.executable, "-m", "nemo_srlm.launch.worker", str(run_dir), str(ref)]
            env = gpus_of(index, len(parts), cfg.generate.tensor_parallel, gpus)
            env |= {"NEMO_SRLM_PARENT": str(os.getpid())}
            log = run_dir / "logs" / f"iter{ref.iteration}-{ref.stage}.{part:05d}-of-{of:05d}.log"
            workers.append(process.start([*command, "--shard", f"{part}/{of}", "--replica"], log, env))
        wait(workers)
    finally:
        for worker in workers:
            if worker.poll() is None:
                process.stop(worker, GRACE)


def wait(workers: Sequence["Popen[bytes]"]) -> None:
    """Until all have ended well, or one has not: then ReplicaFailed."""
    while True:
        codes = [worker.poll() for worker in workers]
        if bad := [code for code in codes if code]:
            raise ReplicaFailed(bad[0] if bad[0] > 0 else 1)
        if all(code == 0 for code in codes):
            return
        time.sleep(POLL)
