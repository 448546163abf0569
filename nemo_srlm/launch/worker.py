"""A worker of stages that are no training: runs them one after another and exits (see launch/contract.py)."""

import os
import sys
from contextlib import closing
from dataclasses import replace

from nemo_srlm.config.compose import load_resolved_config
from nemo_srlm.core import stage as stages
from nemo_srlm.core.slot import Slot
from nemo_srlm.core.stage import Context, Ref, Stage, stage_directory
from nemo_srlm.core.terminal import say
from nemo_srlm.generate.replicas import on_engine
from nemo_srlm.generate.vllm_engine import preload
from nemo_srlm.generate.vllm_options import runs_in_process
from nemo_srlm.launch import replicas
from nemo_srlm.launch.contract import EXIT_DONE, EXIT_USER, Work, parse, record_failure
from nemo_srlm.launch.replicas import Replicas
from nemo_srlm.stages import load


def run_stage(work: Work, ref: Ref, slot: Slot, engines: Replicas) -> None:
    """One shard of a stage; with a single shard also its manifest. Does nothing when the stage is done.

    An engine is opened in `slot`, which keeps it between stages, or in each of `engines` where the config asks for several.
    """
    run_dir = work.run_dir
    cfg, stage = load_resolved_config(run_dir), load(ref.stage)
    if stages.ready(stage, cfg, ref.iteration, run_dir):
        return
    stages.begin(stage, cfg, ref.iteration, run_dir)
    ctx = stages.context(run_dir, stage, cfg, ref.iteration, work.shard, work.num_shards)
    if on_engine(stage, cfg) and replicas.needed(work, cfg) > 1:
        engines.run(ref, cfg)
    else:
        call(stage, replace(ctx, slot=slot))
    if work.num_shards == 1:
        stages.finish(stage, ctx, run_dir)


def call(stage: Stage, ctx: Context) -> None:
    """Runs a stage's work. Raises RuntimeError where a package or the user's code ends the process instead: with exit code 0 the
    launcher would take the stage for done."""
    try:
        stage.run(ctx)
    except SystemExit as ended:
        raise RuntimeError(f"sys.exit({ended.code!r}) was called in the stage") from ended


def run(work: Work, slot: Slot, engines: Replicas) -> int:
    """Runs the stages in order and returns the exit code. Raises what is no mistake of the user's, written down before."""
    for ref in work.refs:
        say(f"--- {ref}")
        try:
            run_stage(work, ref, slot, engines)
        except replicas.ReplicaFailed as failed:
            say(f"error: {ref}: {failed}", error=True)
            return failed.code
        except Exception as error:
            record_failure(error, ref, stage_directory(work.run_dir, ref))
            return EXIT_USER
    return EXIT_DONE


def serve(work: Work, slot: Slot) -> int:
    """A replica: does the shards that its worker names until it names none, and returns the exit code. Raises as `run` does."""
    with replicas.orders() as orders:
        if not orders.poll():  # a stage that one engine does alone runs first: import meanwhile what all engines need
            preload(load_resolved_config(work.run_dir).generate)
        while order := replicas.receive(orders):
            say(f"--- {order.ref}")
            cfg, stage = load_resolved_config(work.run_dir), load(order.ref.stage)
            ctx = stages.context(work.run_dir, stage, cfg, order.ref.iteration, order.shard, order.num_shards)
            try:
                call(stage, replace(ctx, slot=slot))
            except Exception as error:
                record_failure(error, order.ref, ctx.dir)
                return EXIT_USER
            orders.send(None)
    return EXIT_DONE


def main() -> int:
    work = parse()
    with closing(Slot()) as slot:
        if work.replica:
            code = serve(work, slot)
        else:
            with closing(Replicas(work)) as engines:
                code = run(work, slot, engines)
        if runs_in_process():
            end_at_once(code)
    return code


def end_at_once(code: int) -> None:
    """Ends this process without closing vLLM and without the interpreter's own end, four seconds in which the launcher waits.

    All work is on disk, and an engine in this process leaves nothing behind.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
