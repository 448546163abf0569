"""eval_kl (eval.kl): how far a policy has moved from the one before it, in nats per token of its own responses.

Both exports score the responses of eval_responses (prompt log-probabilities of vLLM), end token included. Writes
scored.jsonl (TokenScore). The mean log-ratio estimates KL(policy || previous) at temperature 1 on responses sampled at
eval.temperature and eval.top_p. Responses are tokenized again, for both models alike.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.pipeline import export_ref, model_name
from nemo_srlm.core.records import Candidate, content_id
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.errors import DataError
from nemo_srlm.evaluate import drift
from nemo_srlm.evaluate.response_scores import MODELS, TokenScore, scored, token_scores
from nemo_srlm.generate.requests import Engine, Failure, Outcome, Request, error_kinds
from nemo_srlm.stages.common.generating import chat_of, engine_identity, open_engine, run_requests, usage_metrics
from nemo_srlm.stages.common.held_out import read_prompts

OUTPUT = "scored.jsonl"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {
        "held_out": Ref("held_out", 0), "responses": Ref("eval_responses", iteration), "own": Ref("export", iteration),
        "previous": export_ref(cfg, iteration - 1),
    }  # fmt: skip


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return engine_identity(cfg)


def _items(ctx: Context, model: str) -> Iterator[tuple[str, Candidate]]:
    for response in read_records(ctx.inputs["responses"] / "responses.jsonl", Candidate):
        if not response.error:
            yield content_id("kl", response.id, model), response


def _run(ctx: Context) -> None:
    texts = {p.id: p.text for p in read_prompts(ctx)}

    def request(engine: Engine, item_id: str, response: Candidate) -> Request:
        assert engine.tokenizer is not None
        ended = response.finish_reason != "length"  # truncated: the policy generated no end token
        ids, start = chat_of(ctx, engine.tokenizer).scored(texts[response.prompt_id], response.text, ended)
        return Request(item_id, tuple(ids), 1, 0, 0.0, 1.0, 1, score_from=start, text=response.text)

    for model in MODELS:

        def records(response: Candidate, outcome: Outcome, model: str = model) -> list[TokenScore]:
            ids = content_id("kl", response.id, model), response.id, response.prompt_id, model
            if isinstance(outcome, Failure):
                return [TokenScore(*ids, 0.0, 0, outcome.reason)]
            values = outcome[0].prompt_logprobs
            return [TokenScore(*ids, sum(values), len(values))]

        run_requests(ctx, _items(ctx, model), partial(open_engine, ctx, model), request, records, "responses")


def _finalize(ctx: Context) -> dict[str, Any]:
    merge_parts(ctx, TokenScore, [item_id for model in MODELS for item_id, _ in _items(ctx, model)], OUTPUT)
    pairs = token_scores(ctx.dir / OUTPUT)
    good = scored(pairs)
    if uneven := [a.response_id for a, b in good if a.num_tokens != b.num_tokens]:
        raise DataError(
            ctx.inputs["previous"], f"{len(uneven)} responses have other tokens than in {ctx.inputs['own']}",
            "one tokenizer for all policies", "export both models again",
        )  # fmt: skip
    found = drift.log_ratio([(a.prompt_id, a.logp - b.logp, a.num_tokens) for a, b in good])
    kl = found["kl"]
    return {
        **found,
        "failed": len(pairs) - len(good),
        "errors": error_kinds(s.error for pair in pairs for s in pair),
        "engine": usage_metrics(ctx),
        "summary": "nothing scored" if kl is None else f"{kl:.4f} nats per token from {model_name(ctx.iteration - 1)}",
    }


STAGE = Stage("eval_kl", "generate", _inputs, _identity, _run, _finalize)
