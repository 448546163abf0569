"""Responses of the input "model" to prompts, as candidates, eval_responses and eval_alpaca write them (Candidate).

An item is a prompt: its draws are one request, so that they share the computation of the prompt.
"""

from collections.abc import Iterable
from typing import Any

from nemo_srlm.config.fields import SamplingSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.records import Candidate, Prompt, item_seed
from nemo_srlm.core.stage import Context
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.generate.requests import Engine, Request
from nemo_srlm.generate.responses import candidate_id, response_metrics, to_candidates
from nemo_srlm.stages.common.generating import chat_ids, open_engine, run_requests, usage_metrics


def check_room(cfg: Config, key: str, sampling: SamplingSection) -> None:
    """Raises ConfigError where `sampling`, the section `key`, leaves no token of the model's positions for a prompt."""
    limit = min(cfg.generate.max_model_len or cfg.model.max_length, cfg.model.max_length)
    if sampling.max_tokens >= limit:
        raise ConfigError(
            f"{key}.max_tokens", str(sampling.max_tokens), f"less than {limit}, the positions for prompt and response together",
            f"lower {key}.max_tokens, for example to {limit // 4}",
        )  # fmt: skip


def respond(ctx: Context, prompts: Iterable[Prompt], sampling: SamplingSection, num: int, *seed_parts: object) -> None:
    """Generates `num` responses to each prompt in chat format, appending to this shard's part.

    `seed_parts` and the prompt's id make a prompt's seed.
    """
    cfg = ctx.cfg

    def request(engine: Engine, item_id: str, prompt: Prompt) -> Request:
        ids = chat_ids(ctx, engine, prompt.text)
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
    """Writes `output`, complete and in prompt order. Returns the counts and means for the manifest.

    Raises DataError where not one response could be made: later stages would have nothing, and another reason for it.
    """
    expected = (candidate_id(prompt.id, index) for prompt in prompts for index in range(num))
    merge_parts(ctx, Candidate, expected, output)
    metrics = response_metrics(read_records(ctx.dir / output, Candidate))
    if metrics["errors"] and not metrics["responses"]:
        first = next(read_records(ctx.dir / output, Candidate)).error
        raise DataError(
            ctx.dir / output, f"not one response could be made ({metrics['errors']}); the first: {first}",
            "prompts and max_tokens that fit the model",
            "correct that, remove this stage's directory and run again",
        )  # fmt: skip
    return metrics | {"engine": usage_metrics(ctx)}
