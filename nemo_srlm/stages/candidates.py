"""candidates: N sampled responses of the policy to every new prompt (candidates.jsonl, Candidate, in prompt order).

An item is a prompt: its N draws are one request, so that they share the prompt's computation.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from nemo_srlm.config.fields import SamplingSection, identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.records import Candidate, Prompt, content_id, item_seed
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.generate.requests import Engine, Failure, Outcome, Request
from nemo_srlm.stages.common.generating import (
    chat_ids,
    engine_identity,
    error_kinds,
    open_engine,
    run_requests,
    share,
    usage_metrics,
)

OUTPUT = "candidates.jsonl"


def candidate_id(prompt_id: str, index: int) -> str:
    return content_id("candidate", prompt_id, index)


def to_candidates(prompt: Prompt, num: int, outcome: Outcome) -> list[Candidate]:
    """One record a draw; when the engine failed, `num` records that say why."""
    ids = [candidate_id(prompt.id, index) for index in range(num)]
    if isinstance(outcome, Failure):
        return [Candidate(made, prompt.id, i, "", "error", 0, outcome.reason) for i, made in enumerate(ids)]
    return [
        Candidate(made, prompt.id, i, draw.text, draw.finish_reason, draw.num_tokens)
        for i, (made, draw) in enumerate(zip(ids, outcome, strict=True))
    ]


def respond(ctx: Context, prompts: Iterable[Prompt], sampling: SamplingSection, num: int, *seed_parts: object) -> None:
    """Generates `num` responses to each prompt with the model of the input "model", in chat format.

    `seed_parts` and the prompt's id make a prompt's seed.
    """
    cfg = ctx.cfg

    def request(engine: Engine, item_id: str, prompt: Prompt) -> Request:
        ids = chat_ids(engine, cfg, prompt.text)
        return Request(
            item_id, ids, num, item_seed(cfg.run.seed, *seed_parts, prompt.id), sampling.temperature, sampling.top_p,
            sampling.max_tokens, text=prompt.text,
        )  # fmt: skip

    run_requests(
        ctx,
        ((candidate_id(prompt.id, num - 1), prompt) for prompt in prompts),
        lambda: open_engine(ctx, "model"),
        request,
        lambda prompt, outcome: to_candidates(prompt, num, outcome),
        "prompts",
    )


def merge_candidates(ctx: Context, prompts: Iterable[Prompt], num: int, output: str) -> dict[str, Any]:
    """Writes `output`, complete and in prompt order. Returns the counts and means for the manifest."""
    expected = (candidate_id(prompt.id, index) for prompt in prompts for index in range(num))
    merge_parts(ctx, Candidate, expected, output)
    return response_metrics(read_records(ctx.dir / output, Candidate)) | {"engine": usage_metrics(ctx)}


def response_metrics(candidates: Iterable[Candidate]) -> dict[str, Any]:
    """Counts and means over the responses that were made; errors apart, by kind."""
    made = truncated = empty = num_tokens = characters = 0
    errors: list[str] = []
    for candidate in candidates:
        if candidate.error:
            errors.append(candidate.error)
            continue
        made += 1
        truncated += candidate.finish_reason == "length"
        empty += not candidate.text.strip()
        num_tokens += candidate.num_tokens
        characters += len(candidate.text)
    return {
        "responses": made,
        "errors": error_kinds(errors),
        "truncated": share(truncated, made),
        "empty": empty,
        "tokens": num_tokens,
        "tokens_mean": share(num_tokens, made),
        "characters_mean": share(characters, made),
        "summary": f"{made} responses, {len(errors)} errors",
    }


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"prompts": Ref("prompts", iteration), "model": Ref("export", iteration - 1)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return {"candidates": identity(cfg.candidates), **engine_identity(cfg)}


def _prompts(ctx: Context) -> Iterator[Prompt]:
    return read_records(ctx.inputs["prompts"] / "prompts.jsonl", Prompt)


def _run(ctx: Context) -> None:
    cfg = ctx.cfg
    respond(ctx, _prompts(ctx), cfg.candidates, cfg.candidates.num, "candidates", ctx.iteration)


def _finalize(ctx: Context) -> dict[str, Any]:
    return merge_candidates(ctx, _prompts(ctx), ctx.cfg.candidates.num, OUTPUT)


STAGE = Stage("candidates", "generate", _inputs, _identity, _run, _finalize, lambda cfg: cfg.candidates.shards)
