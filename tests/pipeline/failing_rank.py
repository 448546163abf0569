"""A training rank that fails as its stage's name says, in the place of nemo_srlm.launch.train_worker.

python -m tests.pipeline.failing_rank RUN_DIR iter0/STAGE            one rank
python -m tests.pipeline.failing_rank --torchrun RUN_DIR HOW FLAGS   all ranks, by the project's torchrun
"""

import os
import resource
import signal
import sys
import time
from pathlib import Path

from nemo_srlm.core.stage import stage_directory
from nemo_srlm.launch import contract, torchrun, train_worker

HOW = "FAILING_RANK"  # environment: what happens


def work() -> None:
    """Rank 1 fails; rank 0 loses it, and says so a moment later."""
    how, rank = os.environ[HOW], int(os.environ["RANK"])
    if rank == 0:
        time.sleep(30 if how == "killed" else 2)
        raise RuntimeError("connection closed by peer")
    if how == "raise":
        raise RuntimeError("the loss is not finite")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "files":
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        raise AssertionError([os.open(os.devnull, os.O_RDONLY) for _ in range(64)])
    if how == "size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        Path(sys.argv[1], "weights").write_bytes(b"x" * 10_000)


def main() -> None:
    if sys.argv[1] == "--torchrun":
        torchrun.TRAIN_WORKER = "tests.pipeline.failing_rank"
        sys.exit(torchrun.main(sys.argv[2:]))
    parsed = contract.parse()
    (ref,) = parsed.refs

    def attempt(do: object) -> int:
        work()
        return 0

    train_worker._attempt = attempt
    code = train_worker.exit_code(work, ref, stage_directory(parsed.run_dir, ref))
    os._exit(code)


if __name__ == "__main__":
    main()
