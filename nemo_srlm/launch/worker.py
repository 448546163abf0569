"""A worker process: runs stages of a run, one after another, and exits.

    python -m nemo_srlm.launch.worker RUN_DIR iter1/candidates iter1/judge     whole stages, each finished with its manifest
    python -m nemo_srlm.launch.worker RUN_DIR iter1/judge --shard 3/8          one shard; somebody else finishes the stage

Training stages have their own entry, under torchrun: nemo_srlm/megatron/main.py.
"""

import argparse
import os
import sys
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from nemo_srlm.config.compose import load_resolved_config
from nemo_srlm.core import stage as stages
from nemo_srlm.core.process import die_with_parent
from nemo_srlm.core.slot import Slot
from nemo_srlm.core.stage import Ref
from nemo_srlm.errors import UserError, of_system
from nemo_srlm.launch import replicas
from nemo_srlm.stages import load

EXIT_USER = 2


def parse_ref(text: str) -> Ref:
    """`iter1/judge` -> Ref("judge", 1)."""
    iteration, _, name = text.partition("/")
    return Ref(name, int(iteration.removeprefix("iter")))


def run_stage(run_dir: Path, ref: Ref, slot: Slot, shard: int = 0, num_shards: int = 1, replica: bool = False) -> None:
    """One shard of a stage; with a single shard also its manifest. Done already: nothing.

    Where the config asks for replicas, the shard is done by as many workers (`replica`: this is one of them).
    """
    cfg = load_resolved_config(run_dir)
    stage = load(ref.stage)
    if stages.ready(stage, cfg, ref.iteration, run_dir):
        return
    stages.begin(stage, cfg, ref.iteration, run_dir)
    ctx = stages.context(run_dir, stage, cfg, ref.iteration, shard, num_shards)
    if not replica and replicas.num_replicas(stage, cfg) > 1:
        replicas.run(run_dir, ref, shard, num_shards, cfg)
    else:
        stage.run(replace(ctx, slot=slot))
    if num_shards == 1 and not replica:
        stages.finish(stage, ctx, run_dir)


def worker_context(
    run_dir: Path, name: str, iteration: int, shard: int = 0, num_shards: int = 1
) -> tuple[stages.Stage, stages.Context]:
    """For a worker process: the stage and its context under the run's frozen config.

    Refuses to run when the frozen config is not the one under which the stage was begun.
    """
    cfg = load_resolved_config(run_dir)
    stage = load(name)
    if stages.state(stage, cfg, iteration, run_dir) == "missing":
        stages.begin(stage, cfg, iteration, run_dir)
    return stage, stages.context(run_dir, stage, cfg, iteration, shard, num_shards)


def write_error(run_dir: Path, ref: Ref, message: str) -> None:
    """For `run` and `status`: why a stage failed, in one file that the next attempt overwrites."""
    path = stages.stage_directory(run_dir, ref) / "logs" / "error"
    with suppress(OSError):  # on a full disk; `run` and `status` look for that themselves
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(message, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="nemo_srlm.launch.worker", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("refs", nargs="+", type=parse_ref, metavar="iterT/STAGE")
    parser.add_argument("--shard", default="0/1", metavar="K/N")
    parser.add_argument("--replica", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if os.environ.get("NEMO_SRLM_PARENT"):  # started by `run`, not by hand or by Slurm
        die_with_parent()
    shard, num_shards = (int(x) for x in args.shard.split("/"))
    with closing(Slot()) as slot:
        for ref in args.refs:
            print(f"--- {ref}", flush=True)
            try:
                run_stage(args.run_dir, ref, slot, shard, num_shards, args.replica)
            except replicas.ReplicaFailed as failed:
                print(f"error: {ref}: {failed}", file=sys.stderr)
                return failed.code
            except Exception as error:
                mistake = error if isinstance(error, UserError) else of_system(error, args.run_dir)
                if mistake is None:
                    write_error(args.run_dir, ref, f"{ref}: {type(error).__name__}: {error}")
                    raise
                write_error(args.run_dir, ref, str(mistake))
                print(f"error: {mistake}", file=sys.stderr)
                return EXIT_USER
    return 0


if __name__ == "__main__":
    sys.exit(main())
