"""The lease of an attempt: a file that its step renews while it works, and removes when nothing of it is left to write.

Slurm may lose a node whose processes live on. The next attempt then names itself in the owner file and waits until no lease
is left, or until one has not changed for EXPIRES seconds (slurm/stage.sh). An attempt takes its lease first and reads the owner
file afterwards: of two attempts at least one sees the other.
"""

import signal
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Self

RENEW = 2.0  # seconds
EXPIRES = 10  # seconds without renewal after which nobody is left there: several times RENEW


class Lease:
    """Of one node of an attempt. A retry in the same job has the same.

    As a context it is renewed by a timer signal, whatever the process waits for: a worker that takes a minute to die, the
    digests of large files. In the main thread; children do not inherit the timer.
    """

    def __init__(self, job_dir: Path, shard: int, node: int, owner: str) -> None:
        self.path = job_dir / f"lease-{shard}-{node}.{owner}"
        self.count = 0

    def __enter__(self) -> Self:
        self.renew()
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.siginterrupt(signal.SIGALRM, False)
        signal.setitimer(signal.ITIMER_REAL, RENEW, RENEW)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        self.release()

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        self.renew()

    def renew(self) -> None:
        """Changes the file's content. Times of files are cached on shared file systems."""
        self.count += 1
        with suppress(OSError):  # a full disk: the owner file still ends this attempt
            self.path.write_text(f"{self.count}\n", encoding="utf-8")

    def release(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
