"""held_out: what evaluation reads, and nothing else does: eval_prompts.jsonl (Prompt), ranked_valid.jsonl (RankedReply).

A real run has one held-out set: the prompts of `eval.prompts` where that is set (with categories.json, id -> category,
where they have any), else the seed stage's; the ranked replies are the seed stage's always. The tiny world has two
splits: settings are chosen on `dev`, figures are reported from `test`. Which prompts are read enters this stage's
fingerprint, and so those of the evaluations, of no other stage.
"""

import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import content_digest, read_json, read_records, write_json, write_records
from nemo_srlm.core.records import Prompt, RankedReply, SftExample
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.data.prompt_sets import read_prompt_set
from nemo_srlm.data.splits import instruction_id

COUNTS = "counts.json"

PROMPTS, RANKED, CATEGORIES = "eval_prompts.jsonl", "ranked_valid.jsonl", "categories.json"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"seed": Ref("seed", 0)} | ({"world": Ref("world", 0)} if cfg.world.enabled else {})


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = {"split": cfg.world.split if cfg.world.enabled else "seed"}
    own |= {"prompts": content_digest(Path(cfg.eval.prompts))} if cfg.eval.prompts else {}
    return own | ({"select": content_digest(Path(cfg.select.prompts))} if _has_choosers(cfg) else {})


def _has_choosers(cfg: Config) -> bool:
    """Whether a file of prompts chooses among checkpoints: they should be others than these."""
    return cfg.select.every > 0 and bool(cfg.select.prompts)


def _check(cfg: Config) -> None:
    if cfg.eval.prompts:
        read_prompt_set(Path(cfg.eval.prompts), Counter())


def _run(ctx: Context) -> None:
    if ctx.cfg.world.enabled:
        split, world = ctx.cfg.world.split, ctx.inputs["world"]
        shutil.copyfile(world / f"eval_prompts.{split}.jsonl", ctx.dir / PROMPTS)
        shutil.copyfile(world / f"judge_eval.{split}.jsonl", ctx.dir / RANKED)
    else:
        shutil.copyfile(ctx.inputs["seed"] / RANKED, ctx.dir / RANKED)
        if ctx.cfg.eval.prompts:
            _own_prompts(ctx, Path(ctx.cfg.eval.prompts))
        else:
            shutil.copyfile(ctx.inputs["seed"] / PROMPTS, ctx.dir / PROMPTS)
            if overlap := _overlap(ctx):
                write_json(ctx.dir / COUNTS, overlap)
    ctx.progress.update(1, 1, "sets")


def _own_prompts(ctx: Context, path: Path) -> None:
    """A prompt that is also in the seed data stays, and is counted: the reader of the figures must know."""
    counts: Counter[str] = Counter()
    asked = read_prompt_set(path, counts)
    trained = {instruction_id(e.prompt) for e in read_records(ctx.inputs["seed"] / "ift.jsonl", SftExample)}
    counts["also_in_ift"] = sum(instruction_id(a.prompt.text) in trained for a in asked)
    write_records(ctx.dir / PROMPTS, [a.prompt for a in asked])
    if categories := {a.prompt.id: a.category for a in asked if a.category}:
        write_json(ctx.dir / CATEGORIES, categories)
    write_json(ctx.dir / COUNTS, dict(sorted(counts.items())) | _overlap(ctx))


def _overlap(ctx: Context) -> dict[str, int]:
    """How many of the prompts have a say in which checkpoint is evaluated."""
    if not _has_choosers(ctx.cfg):
        return {}
    choosers = {instruction_id(a.prompt.text) for a in read_prompt_set(Path(ctx.cfg.select.prompts), Counter())}
    found = sum(instruction_id(p.text) in choosers for p in read_records(ctx.dir / PROMPTS, Prompt))
    if found:
        print(f"warning: {found} prompts of the evaluation are also in select.prompts", file=sys.stderr, flush=True)
    return {"also_in_select": found}


def categories(directory: Path) -> dict[str, str]:
    """Prompt id -> category; {} where the prompts have none."""
    path = directory / CATEGORIES
    found: dict[str, str] = read_json(path) if path.exists() else {}
    return found


def _finalize(ctx: Context) -> dict[str, Any]:
    prompts = sum(1 for _ in read_records(ctx.dir / PROMPTS, Prompt))
    replies = sum(1 for _ in read_records(ctx.dir / RANKED, RankedReply))
    counts = {"set": read_json(ctx.dir / COUNTS)} if (ctx.dir / COUNTS).exists() else {}
    return {"prompts": prompts, "replies": replies, **counts, "summary": f"{prompts} prompts, {replies} ranked replies"}


STAGE = Stage("held_out", "cpu", _inputs, _identity, _run, _finalize, check=_check)
