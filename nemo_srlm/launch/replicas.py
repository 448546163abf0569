"""Starts the replicas of a shard as workers on this machine and waits for them (see generate/replicas.py)."""

import time
from collections.abc import Sequence
from dataclasses import replace
from subprocess import Popen

from nemo_srlm.config.schema import Config
from nemo_srlm.core import process
from nemo_srlm.generate.replicas import gpus_of, shards_of, visible_gpus
from nemo_srlm.launch import contract
from nemo_srlm.launch.contract import EXIT_FAILED, Work

POLL = 0.2  # seconds between two looks at the processes
GRACE = 10.0  # seconds that a process gets to end; what it has finished is on disk


class ReplicaFailed(Exception):
    """A replica ended with an error, which it wrote to the stage's error file."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a replica ended with exit code {code}")
        self.code = code


def run(work: Work, cfg: Config) -> None:
    """Runs the replicas of a shard to their end. Raises ReplicaFailed after the others have been stopped."""
    (ref,) = work.refs
    parts, gpus = shards_of(work.shard, work.num_shards, cfg.generate.replicas), visible_gpus()
    workers: list[Popen[bytes]] = []
    try:
        for index, (shard, num_shards) in enumerate(parts):
            command = contract.command(replace(work, shard=shard, num_shards=num_shards, replica=True))
            env = contract.environment() | gpus_of(index, len(parts), cfg.generate.tensor_parallel, gpus)
            name = f"iter{ref.iteration}-{ref.stage}.{shard:05d}-of-{num_shards:05d}.log"
            workers.append(process.start(command, work.run_dir / "logs" / name, env))
        wait(workers)
    finally:
        for worker in workers:
            if worker.poll() is None:
                process.stop(worker, GRACE)


def wait(workers: Sequence["Popen[bytes]"]) -> None:
    """Returns when all have ended with 0; raises ReplicaFailed as soon as one has not."""
    while True:
        codes = [worker.poll() for worker in workers]
        if bad := [code for code in codes if code]:
            raise ReplicaFailed(bad[0] if bad[0] > 0 else EXIT_FAILED)
        if all(code == 0 for code in codes):
            return
        time.sleep(POLL)
