"""modified_prompts (judge_training.method=self_taught): for every prompt another instruction, close to it (modified.jsonl).

Written by the policy, as in Self-Taught Evaluators (arXiv 2408.02666), or for models that cannot (judge_training.modified=other)
the prompt of the same iteration that is most alike.
"""

from collections.abc import Iterator
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.pipeline import export_ref
from nemo_srlm.core.records import Prompt, item_seed
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.data import templates
from nemo_srlm.data.near_copies import same_text
from nemo_srlm.data.words import BROKEN
from nemo_srlm.data.written import without_opening
from nemo_srlm.errors import DataError
from nemo_srlm.generate.requests import Engine, Failure, Outcome, Request, error_kinds
from nemo_srlm.stages.common.generating import chat_ids, engine_identity, open_engine, run_requests
from nemo_srlm.stages.common.modified import OUTPUT, ModifiedPrompt

SAME = {"same": "instruction"}  # in identities: once "Name two." was another instruction than "Name two"
BLOCK = 512  # prompts whose likeness to all others is in memory at once


def _written(cfg: Config) -> bool:
    return cfg.judge_training.modified == "written"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    refs = {"prompts": Ref("prompts", iteration)}
    return refs | {"model": export_ref(cfg, iteration - 1)} if _written(cfg) else refs


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    if not _written(cfg):
        return {"modified": "other", **SAME}
    template = templates.load(cfg.judge_training.modify_template, templates.MODIFY)
    sampling = {name: getattr(cfg.prompts, name) for name in ("temperature", "top_p", "max_tokens")}
    return {"modified": "written", **SAME, "template": template, "sampling": sampling, **engine_identity(cfg)}


def _prompts(ctx: Context) -> list[Prompt]:
    return list(read_records(ctx.inputs["prompts"] / "prompts.jsonl", Prompt))


def modified(prompt: Prompt, outcome: Outcome) -> ModifiedPrompt:
    """What the policy wrote, or why it is no other instruction."""
    if isinstance(outcome, Failure):
        return ModifiedPrompt(prompt.id, "", outcome.reason)
    text = without_opening(outcome[0].text)
    if outcome[0].finish_reason == "length":
        return ModifiedPrompt(prompt.id, "", "cut_off")
    if BROKEN in text:
        return ModifiedPrompt(prompt.id, "", "broken_character")
    if not text or same_text(text) == same_text(prompt.text):
        return ModifiedPrompt(prompt.id, "", "unchanged" if text else "empty")
    return ModifiedPrompt(prompt.id, text)


def most_alike(prompts: list[Prompt]) -> Iterator[ModifiedPrompt]:
    """For every prompt the other one most alike by rapidfuzz's token_sort_ratio; an error where all are the same instruction."""
    import numpy as np
    from rapidfuzz import fuzz, process

    texts = [prompt.text for prompt in prompts]
    instructions = [same_text(text) for text in texts]
    for start in range(0, len(texts), BLOCK):
        block = texts[start : start + BLOCK]
        likeness = process.cdist(block, texts, scorer=fuzz.token_sort_ratio, dtype=np.float32)
        own = instructions[start : start + BLOCK]
        likeness[np.array([[one == other for other in instructions] for one in own])] = -1.0
        for prompt, row in zip(prompts[start : start + BLOCK], likeness, strict=True):
            best = int(row.argmax())
            yield (
                ModifiedPrompt(prompt.id, texts[best]) if row[best] >= 0 else ModifiedPrompt(prompt.id, "", "no_other")
            )


def _run(ctx: Context) -> None:
    cfg = ctx.cfg
    if not _written(cfg):
        return  # nothing to generate: finalize chooses
    template = templates.load(cfg.judge_training.modify_template, templates.MODIFY)

    def request(engine: Engine, item_id: str, prompt: Prompt) -> Request:
        text = templates.fill(template, INSTRUCTION=prompt.text)
        seed = item_seed(cfg.run.seed, "modified_prompts", ctx.iteration, item_id)
        s = cfg.prompts
        return Request(item_id, chat_ids(ctx, engine, text), 1, seed, s.temperature, s.top_p, s.max_tokens, text=text)

    todo = ((prompt.id, prompt) for prompt in _prompts(ctx))
    run_requests(ctx, todo, lambda: open_engine(ctx, "model"), request, lambda p, o: [modified(p, o)], "prompts")


def _finalize(ctx: Context) -> dict[str, Any]:
    """Raises DataError when not one instruction was modified."""
    prompts = _prompts(ctx)
    if _written(ctx.cfg):
        merge_parts(ctx, ModifiedPrompt, (prompt.id for prompt in prompts), OUTPUT)
    else:
        write_records(ctx.dir / OUTPUT, most_alike(prompts))
    errors = error_kinds(one.error for one in read_records(ctx.dir / OUTPUT, ModifiedPrompt))
    made = len(prompts) - sum(errors.values())
    if not made:
        raise DataError(
            ctx.dir, f"not one of {len(prompts)} instructions was modified ({errors})", "other instructions",
            "see the model's texts in parts/; judge_training.modified=other takes other prompts in their place",
        )  # fmt: skip
    return {
        "modified": made,
        "errors": errors,
        "summary": f"{made} of {len(prompts)} prompts modified",
    }


def _shards(cfg: Config) -> int:
    return cfg.candidates.shards if _written(cfg) else 1


STAGE = Stage("modified_prompts", "generate", _inputs, _identity, _run, _finalize, _shards)
