"""The replicas of a worker: processes on this machine, each with an engine that it keeps from stage to stage.

The worker tells a replica through a socket which shard of which stage to do, and gets an answer when it is done. A
replica ends when the worker closes the socket, or dies. (Which items and GPUs each has: generate/replicas.py.)
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from subprocess import Popen, TimeoutExpired

from nemo_srlm.config.schema import Config
from nemo_srlm.core import process
from nemo_srlm.core.stage import Ref
from nemo_srlm.generate.replicas import gpus_of, num_replicas, shards_of, usable_gpus
from nemo_srlm.launch import contract
from nemo_srlm.launch.contract import EXIT_FAILED, Work
from nemo_srlm.stages import load

POLL = 1.0  # seconds between two looks at the processes; an answer is seen at once
GRACE = 10.0  # seconds that a process gets to end; what it has finished is on disk


class ReplicaFailed(Exception):
    """A replica ended with an error, which it wrote to the stage's error file."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a replica ended with exit code {code}")
        self.code = code if code > 0 else EXIT_FAILED  # of the worker; below 0 is a signal's


@dataclass(frozen=True)
class Order:
    """A shard of a stage for a replica to do. The answer to it is None."""

    ref: Ref
    shard: int
    num_shards: int


@dataclass(frozen=True)
class Replica:
    """A started one, and the worker's end of its socket."""

    worker: "Popen[bytes]"
    socket: "Connection[Order, None]"


def needed(work: Work, cfg: Config) -> int:
    """Replicas that the stages of a worker need; 1: it opens the one engine itself."""
    return max(num_replicas(load(ref.stage), cfg) for ref in work.refs)


@dataclass
class Replicas:
    """Those of one worker. They start with its first stage that needs an engine; close it to end them."""

    work: Work
    started: list[Replica] = field(default_factory=list)

    def run(self, ref: Ref, cfg: Config) -> None:
        """Has the replicas do this worker's shard of a stage; the first one alone where it cannot be split.

        Raises ReplicaFailed as soon as one has ended with an error.
        """
        if not self.started:
            self.start(cfg)
        parts = shards_of(self.work.shard, self.work.num_shards, num_replicas(load(ref.stage), cfg))
        busy = self.started[: len(parts)]
        for replica, part in zip(busy, parts, strict=True):
            replica.socket.send(Order(ref, *part))
        while busy:
            done = wait([replica.socket for replica in busy], POLL)
            for replica in busy:
                if replica.socket in done:
                    take_answer(replica)
            busy = [replica for replica in busy if replica.socket not in done]
            check_alive(busy)

    def start(self, cfg: Config) -> None:
        first, num, gpus = self.work.refs[0], needed(self.work, cfg), usable_gpus()
        command = contract.command(Work(self.work.run_dir, self.work.refs, replica=True))
        for index in range(num):
            here, there = Pipe()
            env = contract.environment() | gpus_of(index, num, cfg.generate.tensor_parallel, gpus)
            name = f"iter{first.iteration}-{first.stage}.{self.work.shard:05d}-replica-{index}.log"
            worker = process.start(command, self.work.run_dir / "logs" / name, env, stdin=there.fileno())
            there.close()
            self.started.append(Replica(worker, here))

    def close(self) -> None:
        """Ends them; those that do not end are stopped."""
        for replica in self.started:
            replica.socket.close()
        until = time.monotonic() + GRACE
        for replica in self.started:
            try:
                replica.worker.wait(max(0.0, until - time.monotonic()))
            except TimeoutExpired:
                process.stop(replica.worker, GRACE)
        self.started.clear()


def take_answer(replica: Replica) -> None:
    """Raises ReplicaFailed where there is none, because the replica has ended."""
    try:
        replica.socket.recv()
    except (EOFError, ConnectionResetError):
        raise ReplicaFailed(replica.worker.wait()) from None


def check_alive(replicas: Sequence[Replica]) -> None:
    """Raises ReplicaFailed where one has ended: a process that it has started may hold its socket open."""
    for replica in replicas:
        code = replica.worker.poll()
        if code is not None and not replica.socket.poll():
            raise ReplicaFailed(code)


def orders() -> "Connection[None, Order]":
    """A replica's end of the socket, which is its standard input. Processes that it starts get an empty one."""
    socket: Connection[None, Order] = Connection(os.dup(0))
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return socket


def receive(socket: "Connection[None, Order]") -> Order | None:
    """The next order; None where the worker has closed its end."""
    try:
        return socket.recv()
    except EOFError:
        return None
