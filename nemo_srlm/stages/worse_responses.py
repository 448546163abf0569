"""worse_responses (judge_training.method=self_taught): the policy's response to each modified instruction (candidates.jsonl).

Its prompt_id is that of the original prompt, for which it is the worse response.
"""

from collections.abc import Iterator
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records
from nemo_srlm.core.pipeline import export_ref
from nemo_srlm.core.records import Prompt
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.stages.common.generating import engine_identity
from nemo_srlm.stages.common.modified import OUTPUT, ModifiedPrompt
from nemo_srlm.stages.common.responding import merge_candidates, respond


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"modified": Ref("modified_prompts", iteration), "model": export_ref(cfg, iteration - 1)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = {name: value for name, value in identity(cfg.candidates).items() if name != "num"}
    return {"candidates": own, **engine_identity(cfg)}


def _prompts(ctx: Context) -> Iterator[Prompt]:
    for made in read_records(ctx.inputs["modified"] / OUTPUT, ModifiedPrompt):
        if not made.error:
            yield Prompt(made.id, made.text, "modified")


def _run(ctx: Context) -> None:
    respond(ctx, _prompts(ctx), ctx.cfg.candidates, 1, "worse_responses", ctx.iteration)


def _finalize(ctx: Context) -> dict[str, Any]:
    return merge_candidates(ctx, _prompts(ctx), 1, "candidates.jsonl")


STAGE = Stage("worse_responses", "generate", _inputs, _identity, _run, _finalize, lambda cfg: cfg.candidates.shards)
