"""The lease of an attempt: a file that its step renews while it works, and removes when nothing of it is left to write.

Slurm may lose a node whose processes live on. The next attempt then names itself in the owner file and waits until no lease
is left, or until one has not changed for EXPIRES seconds (slurm/stage.sh). An attempt takes its lease first and reads the owner
file afterwards: of two attempts at least one sees the other.
"""

import time
from contextlib import suppress
from pathlib import Path

RENEW = 2.0  # seconds
EXPIRES = 10  # seconds without renewal after which nobody is left there: several times RENEW


class Lease:
    """Of one node of an attempt. A retry in the same job has the same."""

    def __init__(self, job_dir: Path, shard: int, node: int, owner: str) -> None:
        self.path = job_dir / f"lease-{shard}-{node}.{owner}"
        self.count, self.next = 0, 0.0

    def renew(self) -> None:
        """Changes the file's content, at most every RENEW seconds. Times of files are cached on shared file systems."""
        if time.monotonic() < self.next:
            return
        self.count, self.next = self.count + 1, time.monotonic() + RENEW
        with suppress(OSError):  # a full disk: the owner file still ends this attempt
            self.path.write_text(f"{self.count}\n", encoding="utf-8")

    def release(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
