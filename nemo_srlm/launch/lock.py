"""The lock of a run directory: one launcher at a time. It is the kernel's, so it is gone when its process is."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo_srlm.errors import UserError

POLL = 0.2  # seconds between two attempts


@contextmanager
def locked(run_dir: Path, patience: float = 0.0) -> Iterator[None]:
    """Holds the lock. Raises UserError when another process holds it for longer than `patience` seconds."""
    run_dir.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience
    with (run_dir / ".lock").open("w") as f:
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise UserError(
                        run_dir, "another `nemo-srlm` process is already running here",
                        remedy="wait for it, or look with `nemo-srlm status`",
                    ) from error  # fmt: skip
                time.sleep(POLL)
        yield
