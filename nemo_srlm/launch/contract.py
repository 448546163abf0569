"""The worker contract: how every launcher starts a worker, and what the worker's exit code means.

    python -m nemo_srlm.launch.worker RUN_DIR iter1/candidates iter1/judge    whole stages, each finished with its manifest
    python -m nemo_srlm.launch.worker RUN_DIR iter1/judge --shard 3/8         one shard; the launcher finishes the stage
    python -m nemo_srlm.launch.torchrun RUN_DIR iter1/dpo FLAGS               the training ranks of this node, with torchrun's
                                                                              FLAGS; the launcher finishes the stage

A worker reads RUN_DIR/config.yaml, the resolved config as it was when the run was started or submitted. The files
by which it is stopped and by which it says why it failed are in core/control.py.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_srlm.core.control import write_error
from nemo_srlm.core.stage import Ref
from nemo_srlm.core.terminal import say
from nemo_srlm.errors import UserError, is_passing, of_missing_package, of_system
from nemo_srlm.launch.arguments import shard, stage_ref
from nemo_srlm.stages import load

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USER = 2  # the user's mistake: running it again changes nothing
EXIT_AGAIN = 75  # saved its state and exited before the end (time limit, preemption): run it again

PLACES = 3  # innermost lines of a traceback in the message of a failed stage

WORKER = "nemo_srlm.launch.worker"
TORCHRUN = "nemo_srlm.launch.torchrun"
TRAIN_WORKER = "nemo_srlm.launch.train_worker"


@dataclass(frozen=True)
class Work:
    """What a worker has to do."""

    run_dir: Path
    refs: tuple[Ref, ...]
    shard: int = 0
    num_shards: int = 1
    replica: bool = False  # one of the engines of a worker, which names the shards (launch/replicas.py)

    @property
    def arguments(self) -> list[str]:
        """The command line that `parse` reads."""
        words = [str(self.run_dir.resolve()), *map(str, self.refs)]
        words += ["--shard", f"{self.shard}/{self.num_shards}"] if self.num_shards > 1 else []
        return words + (["--replica"] if self.replica else [])


def _known_stage(text: str) -> Ref:
    """A type for argparse: a stage that exists."""
    ref = stage_ref(text)
    try:
        load(ref.stage)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return ref


def parse(arguments: Sequence[str] | None = None) -> Work:
    """The command line of a worker. Ends the process with exit code 2 when it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("refs", nargs="+", type=_known_stage, metavar="iterT/STAGE")
    parser.add_argument("--shard", type=shard, default=(0, 1), metavar="K/N")
    parser.add_argument("--replica", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    number, num_shards = args.shard
    return Work(args.run_dir, tuple(args.refs), number, num_shards, args.replica)


def record_failure(error: Exception, ref: Ref, directory: Path, *, keep: bool = False) -> UserError:
    """Writes to logs/error of the stage `directory` why the stage failed; called while `error` is handled.

    Prints a user's mistake and returns it: the exit code is then EXIT_USER. Raises any other exception again, so that the
    launcher may try again: also a file server's passing failure. Its message has the innermost lines of the traceback.
    `keep`: a reason that is there stays.
    """
    mistake = error if isinstance(error, UserError) else of_missing_package(error) or of_system(error, directory)
    write_error(directory, str(mistake or f"{ref}: {type(error).__name__}: {error}{_places(error)}"), keep=keep)
    if mistake is None or is_passing(error):
        raise error
    say(f"error: {mistake}", error=True)
    return mistake


def _places(error: Exception) -> str:
    """Where an exception was raised, innermost last: lines below its message."""
    frames = traceback.extract_tb(error.__traceback__)[-PLACES:]
    return "".join(f"\n    {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)


def command(work: Work) -> list[str]:
    """Starts a worker of a stage that is no training."""
    return [sys.executable, "-m", WORKER, *work.arguments]


def training_command(work: Work, flags: Sequence[str]) -> list[str]:
    """Starts the ranks of a training stage on this node. `flags`: torchrun's."""
    return [sys.executable, "-m", TORCHRUN, *work.arguments, *flags]


def environment(threads: int = 0) -> dict[str, str]:
    """What a worker gets beside the environment of its launcher. `threads`: of each process, 0 = not set."""
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return offline | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def allocator(expandable_segments: bool) -> dict[str, str]:
    """How PyTorch allocates GPU memory in a training rank. What the user's environment says stays."""
    name = "PYTORCH_CUDA_ALLOC_CONF"
    return {name: os.environ.get(name, "expandable_segments:True")} if expandable_segments else {}


# what Megatron needs to overlap communication with computation, whoever starts it. A name that is set already stays.
OVERLAP = {
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",  # one hardware queue: Megatron starts communication before what it overlaps with
    "TORCH_NCCL_AVOID_RECORD_STREAMS": "1",  # memory of a collective is released as soon as it was waited for
    "NVTE_FWD_LAYERNORM_SM_MARGIN": "16",  # Transformer Engine's norms leave multiprocessors to the collectives
    "NVTE_BWD_LAYERNORM_SM_MARGIN": "16",
    "NCCL_GRAPH_REGISTER": "0",  # Megatron refuses to record CUDA graphs beside expandable segments without it
}


def training_environment(threads: int) -> dict[str, str]:
    """`environment` of a training rank on any machine; without a GPU the additions have no effect."""
    return environment(threads) | {name: os.environ.get(name, value) for name, value in OVERLAP.items()}
