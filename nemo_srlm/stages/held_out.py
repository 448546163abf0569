"""held_out: the data that only evaluation reads: eval_prompts.jsonl (Prompt) and ranked_valid.jsonl (RankedReply).

A real run has one held-out set: the prompts of `eval.prompts` where that is set (with categories.json, id -> category,
where they have any), else the seed stage's; the ranked replies are the seed stage's always. What is also in a training set
is counted and told: nothing is, unless seed.held_out names other files. The tiny world has two splits: settings are chosen
on `dev`, results are reported on `test`. The split changes the fingerprints of this stage and of the evaluations, of no
other stage; eval.prompts that of the seed stage, too (seed.held_out).
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import content_digest, read_json, read_records, write_json, write_records
from nemo_srlm.core.pipeline import world_inputs, world_split
from nemo_srlm.core.records import Conversation, Prompt, RankedReply, SftExample
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.core.terminal import say
from nemo_srlm.data.near_copies import HeldOut, same_text
from nemo_srlm.data.preference_pairs import preference_files, read_pairs
from nemo_srlm.data.prompt_sets import read_prompt_set
from nemo_srlm.stages.common.held_out import CATEGORIES, PROMPTS, RANKED
from nemo_srlm.stages.common.seed_files import CONVERSATIONS, FILE_PROMPTS, held_out_texts
from nemo_srlm.tiny_world.files import eval_prompts_file, judge_eval_file

COUNTS = "counts.json"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"seed": Ref("seed", 0), **world_inputs(cfg)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = {"split": world_split(cfg) or "seed"}
    own |= {"prompts": content_digest(Path(cfg.eval.prompts))} if cfg.eval.prompts else {}
    return own | ({"select": content_digest(Path(cfg.select.prompts))} if _selects_by_file(cfg) else {})


def _selects_by_file(cfg: Config) -> bool:
    """Whether checkpoints are chosen on a file of prompts: it should have no prompt in common with these."""
    return cfg.select.every > 0 and bool(cfg.select.prompts)


def _check(cfg: Config) -> None:
    if cfg.eval.prompts:
        read_prompt_set(Path(cfg.eval.prompts), Counter())


def _run(ctx: Context) -> None:
    world, split = ctx.inputs.get("world"), ctx.cfg.world.split
    if world is not None:
        shutil.copyfile(eval_prompts_file(world, split), ctx.dir / PROMPTS)
        shutil.copyfile(judge_eval_file(world, split), ctx.dir / RANKED)
    else:
        shutil.copyfile(ctx.inputs["seed"] / RANKED, ctx.dir / RANKED)
        if ctx.cfg.eval.prompts:
            _own_prompts(ctx, Path(ctx.cfg.eval.prompts))
        else:
            shutil.copyfile(ctx.inputs["seed"] / PROMPTS, ctx.dir / PROMPTS)
        counts = read_json(ctx.dir / COUNTS) if (ctx.dir / COUNTS).exists() else {}
        if counts := counts | _overlap(ctx) | _trained(ctx):
            write_json(ctx.dir / COUNTS, counts)
    ctx.progress.update(1, 1, "sets")


def _own_prompts(ctx: Context, path: Path) -> None:
    """The prompts of eval.prompts."""
    counts: Counter[str] = Counter()
    asked = read_prompt_set(path, counts)
    write_records(ctx.dir / PROMPTS, [a.prompt for a in asked])
    if categories := {a.prompt.id: a.category for a in asked if a.category}:
        write_json(ctx.dir / CATEGORIES, categories)
    write_json(ctx.dir / COUNTS, {name: number for name, number in sorted(counts.items()) if number})


def _trained(ctx: Context) -> dict[str, int]:
    """How many prompts of the evaluation, and instructions of its ranked replies, are in a training set, or near to one in it."""
    asked = {prompt.text for prompt in read_records(ctx.dir / PROMPTS, Prompt)}
    asked |= {reply.instruction for reply in read_records(ctx.dir / RANKED, RankedReply)}
    texts = sorted(asked)
    found: dict[str, int] = {}
    for name, trained in _training_sets(ctx):
        reasons = Counter(HeldOut(trained, ctx.cfg.seed.rouge_max).reasons(texts))
        found |= {
            f"{word}_{name}": reasons[why] for word, why in (("also_in", "held_out"), ("near_to", "near_held_out"))
        }
    found = {name: number for name, number in found.items() if number}
    if found:
        told = ", ".join(f"{number} {name}" for name, number in found.items())
        say(f"warning: instructions of the evaluation are in the training data ({told})", error=True)
    return found


def _training_sets(ctx: Context) -> Iterator[tuple[str, list[str]]]:
    """(name, instructions) of every set that is trained on and comes with the data."""
    cfg, seed = ctx.cfg, ctx.inputs["seed"]
    if cfg.run.start == "base":
        yield "ift", [example.prompt for example in read_records(seed / "ift.jsonl", SftExample)]
    yield "eft", [reply.instruction for reply in read_records(seed / "ranked_train.jsonl", RankedReply)]
    if (seed / CONVERSATIONS).exists():
        rows = read_records(seed / CONVERSATIONS, Conversation)
        yield "chat", [text for row in rows for role, text in zip(row.roles, row.texts, strict=True) if role == "user"]
    if (seed / FILE_PROMPTS).exists():
        yield "prompts_files", [prompt.text for prompt in read_records(seed / FILE_PROMPTS, Prompt)]
    if cfg.run.arm == "external":
        apart = HeldOut(held_out_texts(seed), cfg.seed.rouge_max)
        yield "pairs_files", [pair.prompt for pair in read_pairs(preference_files(cfg), Counter(), apart)]


def _overlap(ctx: Context) -> dict[str, int]:
    """How many of the prompts also choose the checkpoint that is evaluated."""
    if not _selects_by_file(ctx.cfg):
        return {}
    selecting = {same_text(a.prompt.text) for a in read_prompt_set(Path(ctx.cfg.select.prompts), Counter())}
    found = sum(same_text(p.text) in selecting for p in read_records(ctx.dir / PROMPTS, Prompt))
    if found:
        say(f"warning: {found} prompts of the evaluation are also in select.prompts", error=True)
    return {"also_in_select": found}


def _finalize(ctx: Context) -> dict[str, Any]:
    prompts = sum(1 for _ in read_records(ctx.dir / PROMPTS, Prompt))
    replies = sum(1 for _ in read_records(ctx.dir / RANKED, RankedReply))
    counts = {"set": read_json(ctx.dir / COUNTS)} if (ctx.dir / COUNTS).exists() else {}
    return {"prompts": prompts, "replies": replies, **counts, "summary": f"{prompts} prompts, {replies} ranked replies"}


STAGE = Stage("held_out", "cpu", _inputs, _identity, _run, _finalize, check=_check)
