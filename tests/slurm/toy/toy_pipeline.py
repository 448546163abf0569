"""A toy loop that counts and sleeps, with the real stage contract: cpu, train, generate (sharded), cpu, train, generate.

Environment (inherited by the jobs): TOY_ITEM and TOY_STEP: seconds per item and per training step. TOY_CRASH and
TOY_HANG: `stage` or `stage:shard` that crashes or hangs; TOY_TIMES: how often (0 = always). TOY_HOLD: the stage whose
workers wait once in the middle of their work, so that a test need not strike at the right second. TOY_BROKEN: the stage
whose engine does not start on the node that it runs on first. TOY_STAGES: number of stages, at most six.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import nemo_srlm
from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.config.fields import identity
from nemo_srlm.core.control import stop_file
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.records import Prompt
from nemo_srlm.core.stage import Ref, Stage
from nemo_srlm.errors import PassingError
from nemo_srlm.launch.contract import EXIT_AGAIN
from tests.items import run_items

ITEMS, STEPS = 24, 10


def in_the_middle(ctx, name):
    """Waits, crashes or hangs, as the environment says. Called in the middle of the work of a shard or training."""
    if os.environ.get("TOY_HOLD") == name:
        hold(ctx)
    if os.environ.get("TOY_BROKEN") == name:
        break_first_node(ctx)
    for kind in ("CRASH", "HANG"):
        wanted = os.environ.get(f"TOY_{kind}", "")
        if wanted not in (name, f"{name}:{ctx.shard}"):
            continue
        log = ctx.dir / "logs" / f"toy-{kind}-{ctx.shard}"
        log.parent.mkdir(exist_ok=True)
        with log.open("a+") as f:
            f.seek(0)
            times = len(f.read())
            limit = int(os.environ.get("TOY_TIMES", "0"))
            if limit and times >= limit:
                continue
            f.write("x")
        if kind == "HANG":
            hang_here()
        os.kill(os.getpid(), signal.SIGKILL)


def break_first_node(ctx):
    broken, here = ctx.dir / "logs" / "toy-broken", os.environ["SLURMD_NODENAME"]
    broken.parent.mkdir(exist_ok=True)
    if not broken.exists():
        broken.write_text(here)
    if broken.read_text() == here:
        raise PassingError("model", "vLLM does not start: CUDA error: uncorrectable ECC error encountered")


def hold(ctx):
    """Waits until it is to stop, until a later attempt is there, or until the test lets go (tests/slurm/conftest.py)."""
    held = ctx.dir / "logs" / f"toy-held-{ctx.shard}"
    held.parent.mkdir(exist_ok=True)
    if held.exists():  # by an earlier attempt
        return
    held.touch()
    owner, own = Path(os.environ["NEMO_SRLM_OWNER_FILE"]), os.environ["NEMO_SRLM_ATTEMPT"]
    while not (stop_file(ctx.dir).exists() or held.with_name("toy-let-go").exists()):
        if owner.read_text().strip() != own:
            return
        time.sleep(0.05)


def hang_here():
    time.sleep(10_000)


def slow(ctx, name, items, make):
    def process(batch):
        for item, value in batch:
            time.sleep(float(os.environ.get("TOY_ITEM", "0.02")))
            if int(item[1:]) >= ITEMS // 2:
                in_the_middle(ctx, name)
            yield make(item, value)

    run_items(ctx, items, process, batch=1)


def pairs_of(ctx, name, file):
    return [(p.id, p) for p in read_records(ctx.inputs[name] / file, Prompt)]


def seed_run(ctx):
    write_records(ctx.dir / "seed.jsonl", (Prompt(f"n{i}", str(i)) for i in range(ITEMS)))


def square_run(ctx):
    slow(ctx, "square", pairs_of(ctx, "seed", "seed.jsonl"), lambda i, p: Prompt(i, str(int(p.text) ** 2)))


def square_finish(ctx):
    ids = [i for i, _ in pairs_of(ctx, "seed", "seed.jsonl")]
    return {"count": merge_parts(ctx, Prompt, ids, "squares.jsonl"), "summary": f"{len(ids)} squares"}


def pick_run(ctx):
    found = [p for _, p in pairs_of(ctx, "square", "squares.jsonl")]
    write_records(ctx.dir / "picked.jsonl", (p for p in found if int(p.text) % 2))


def forget_unsaved_steps(metrics, state):
    """As the real trainer does: a kill between a step's line and its state leaves a line of a step that is done again."""
    done = json.loads(state.read_text())["done"] if state.exists() else 0
    if metrics.exists():
        write_atomic(metrics, "".join(metrics.read_text().splitlines(keepends=True)[:done]))


def train_run(ctx):
    """Counts to STEPS on rank 0, saves each step, resumes; at the stop file exits with EXIT_AGAIN after a step."""
    rank = int(os.environ["RANK"])
    print(f"rank {rank} has {len(os.sched_getaffinity(0))} CPUs and runs {nemo_srlm.__file__}", flush=True)
    if os.environ.get("TOY_TORCH"):
        import torch

        torch.distributed.init_process_group("gloo")
        total = torch.ones(1)
        torch.distributed.all_reduce(total)
        print(f"rank {rank} of {int(total)}", flush=True)
        torch.distributed.destroy_process_group()
    state = ctx.dir / "state.json"
    if rank == 0:
        forget_unsaved_steps(ctx.dir / "metrics.jsonl", state)
    while True:
        done = json.loads(state.read_text())["done"] if state.exists() else 0
        if done >= STEPS:
            return
        time.sleep(float(os.environ.get("TOY_STEP", "0.05")))
        if rank == 0:
            if done == STEPS // 2:
                in_the_middle(ctx, ctx.dir.name)
            with (ctx.dir / "metrics.jsonl").open("a") as f:
                f.write(json.dumps({"step": done}) + "\n")
            write_atomic(state, json.dumps({"done": done + 1}))
            ctx.progress.update(done + 1, STEPS, "steps")
        if stop_file(ctx.dir).exists() and done + 1 < STEPS:
            print(f"rank {rank} leaves at {done + 1}", flush=True)
            sys.stdout.flush()
            os._exit(EXIT_AGAIN)


def train_finish(ctx):
    done = json.loads((ctx.dir / "state.json").read_text())["done"]
    return {"done": done, "summary": f"{done} steps"}


def count_finish(ctx):
    return {"files": sum(1 for _ in Path(ctx.dir).glob("*.jsonl"))}


def check_run(ctx):
    items = pairs_of(ctx, "pick", "picked.jsonl")
    slow(ctx, "check", items, lambda i, p: Prompt(i, str(int(p.text) + 1)))
    merge_parts(ctx, Prompt, [i for i, _ in items], "checked.jsonl")


def no_identity(cfg, t):
    return {"seed": identity(cfg.seed)}


STAGES = {
    s.name: s
    for s in (
        Stage("seed", "cpu", lambda c, t: {}, no_identity, seed_run, count_finish),
        Stage("grow", "train", lambda c, t: {"seed": Ref("seed", 0)}, no_identity, train_run, train_finish),
        Stage(
            "square", "generate", lambda c, t: {"seed": Ref("seed", 0), "model": Ref("grow", 0)},
            lambda c, t: {"judge": identity(c.judge)}, square_run, square_finish, lambda c: c.judge.shards,
        ),
        Stage("pick", "cpu", lambda c, t: {"square": Ref("square", 1)}, no_identity, pick_run, count_finish),
        Stage("tune", "train", lambda c, t: {"pick": Ref("pick", 1)}, no_identity, train_run, train_finish),
        Stage(
            "check", "generate", lambda c, t: {"pick": Ref("pick", 1), "model": Ref("tune", 1)}, no_identity,
            check_run, count_finish,
        ),
    )
}  # fmt: skip


def load(name):
    return STAGES[name]


def pipeline(cfg):
    every = [Ref("seed", 0), Ref("grow", 0), Ref("square", 1), Ref("pick", 1), Ref("tune", 1), Ref("check", 1)]
    return every[: int(os.environ.get("TOY_STAGES", "6"))]
