"""A worker of stages that are no training: runs them one after another and exits (see launch/contract.py)."""

import sys
from contextlib import closing
from dataclasses import replace

from nemo_srlm.config.compose import load_resolved_config
from nemo_srlm.core import stage as stages
from nemo_srlm.core.slot import Slot
from nemo_srlm.core.stage import Ref, stage_directory
from nemo_srlm.core.terminal import say
from nemo_srlm.generate.replicas import num_replicas
from nemo_srlm.launch import replicas
from nemo_srlm.launch.contract import EXIT_DONE, EXIT_USER, Work, parse, record_failure
from nemo_srlm.stages import load


def run_stage(work: Work, ref: Ref, slot: Slot) -> None:
    """One shard of a stage; with a single shard also its manifest. Does nothing when the stage is done.

    Where the config asks for replicas, as many further workers share the shard. `slot` keeps the engine between stages.
    """
    run_dir = work.run_dir
    cfg, stage = load_resolved_config(run_dir), load(ref.stage)
    if stages.ready(stage, cfg, ref.iteration, run_dir):
        return
    stages.begin(stage, cfg, ref.iteration, run_dir)
    ctx = stages.context(run_dir, stage, cfg, ref.iteration, work.shard, work.num_shards)
    if not work.replica and num_replicas(stage, cfg) > 1:
        replicas.run(replace(work, refs=(ref,)), cfg)
    else:
        stage.run(replace(ctx, slot=slot))
    if work.num_shards == 1 and not work.replica:
        stages.finish(stage, ctx, run_dir)


def run(work: Work, slot: Slot) -> int:
    """Runs the stages in order and returns the exit code. Raises what is no mistake of the user's, written down before."""
    for ref in work.refs:
        say(f"--- {ref}")
        try:
            run_stage(work, ref, slot)
        except replicas.ReplicaFailed as failed:
            say(f"error: {ref}: {failed}", error=True)
            return failed.code
        except Exception as error:
            record_failure(error, ref, stage_directory(work.run_dir, ref))
            return EXIT_USER
    return EXIT_DONE


def main() -> int:
    with closing(Slot()) as slot:
        return run(parse(), slot)


if __name__ == "__main__":
    sys.exit(main())
