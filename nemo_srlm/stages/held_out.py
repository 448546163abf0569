"""held_out: what evaluation reads, and nothing else does: eval_prompts.jsonl (Prompt), ranked_valid.jsonl (RankedReply).

A real run has one held-out set, the seed stage's. The tiny world has two splits: settings are chosen on `dev`, figures
are reported from `test`. Which one enters this stage's fingerprint, and so those of the evaluations, of no other stage.
"""

import shutil
from typing import Any

from nemo_srlm.config import Config
from nemo_srlm.records import Prompt, RankedReply
from nemo_srlm.stage import Context, Ref, Stage
from nemo_srlm.store import read_records

PROMPTS, RANKED = "eval_prompts.jsonl", "ranked_valid.jsonl"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"seed": Ref("seed", 0)} | ({"world": Ref("world", 0)} if cfg.world.enabled else {})


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return {"split": cfg.world.split if cfg.world.enabled else "seed"}


def _run(ctx: Context) -> None:
    if ctx.cfg.world.enabled:
        split, world = ctx.cfg.world.split, ctx.inputs["world"]
        shutil.copyfile(world / f"eval_prompts.{split}.jsonl", ctx.dir / PROMPTS)
        shutil.copyfile(world / f"judge_eval.{split}.jsonl", ctx.dir / RANKED)
    else:
        for name in (PROMPTS, RANKED):
            shutil.copyfile(ctx.inputs["seed"] / name, ctx.dir / name)
    ctx.progress.update(1, 1, "sets")


def _finalize(ctx: Context) -> dict[str, Any]:
    prompts = sum(1 for _ in read_records(ctx.dir / PROMPTS, Prompt))
    replies = sum(1 for _ in read_records(ctx.dir / RANKED, RankedReply))
    return {"prompts": prompts, "replies": replies, "summary": f"{prompts} prompts, {replies} ranked replies"}


STAGE = Stage("held_out", "cpu", _inputs, _identity, _run, _finalize)
