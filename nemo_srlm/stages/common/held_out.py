"""The files of the stage held_out, as the evaluations read them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from nemo_srlm.core.files import read_json, read_records
from nemo_srlm.core.records import Prompt, RankedReply
from nemo_srlm.core.stage import Context
from nemo_srlm.tiny_world.held_out import families

PROMPTS, RANKED, CATEGORIES = "eval_prompts.jsonl", "ranked_valid.jsonl", "categories.json"


def prompts_file(ctx: Context) -> Path:
    return ctx.inputs["held_out"] / PROMPTS


def read_prompts(ctx: Context) -> Iterator[Prompt]:
    return read_records(prompts_file(ctx), Prompt)


def read_ranked(ctx: Context) -> Iterator[RankedReply]:
    return read_records(ctx.inputs["held_out"] / RANKED, RankedReply)


def categories(ctx: Context, prompts: Sequence[Prompt]) -> dict[str, str]:
    """Prompt id -> category: as eval.prompts has it, or the question's family in the tiny world; "" for none."""
    path = ctx.inputs["held_out"] / CATEGORIES
    named: dict[str, str] = read_json(path) if path.exists() else families(ctx.cfg, prompts)
    return {prompt.id: named.get(prompt.id, "") for prompt in prompts}
