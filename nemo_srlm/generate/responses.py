"""Responses as records: Candidate from a request's outcome, and the counts of a set of them."""

from collections.abc import Iterable
from typing import Any

from nemo_srlm.core.records import Candidate, Prompt, content_id
from nemo_srlm.data.words import BROKEN
from nemo_srlm.generate.requests import Failure, Outcome, error_kinds


def candidate_id(prompt_id: str, index: int) -> str:
    return content_id("candidate", prompt_id, index)


def to_candidates(prompt: Prompt, num: int, outcome: Outcome) -> list[Candidate]:
    """One record per draw; where the engine failed, `num` records with the reason."""
    ids = [candidate_id(prompt.id, index) for index in range(num)]
    if isinstance(outcome, Failure):
        return [Candidate(made, prompt.id, i, "", "error", 0, outcome.reason) for i, made in enumerate(ids)]
    return [
        Candidate(made, prompt.id, i, draw.text, draw.finish_reason, draw.num_tokens)
        for i, (made, draw) in enumerate(zip(ids, outcome, strict=True))
    ]


def response_metrics(candidates: Iterable[Candidate]) -> dict[str, Any]:
    """Counts and means over the responses that were made; errors separately, by kind. None: a mean over nothing.

    `identical_draws`: share of the prompts with two or more responses whose responses are one text.
    `broken_character`: responses with bytes that are no character (U+FFFD).
    """
    made = truncated = empty = broken = num_tokens = characters = 0
    errors: list[str] = []
    texts: dict[str, list[str]] = {}
    for candidate in candidates:
        if candidate.error:
            errors.append(candidate.error)
            continue
        made += 1
        truncated += candidate.finish_reason == "length"
        empty += not candidate.text.strip()
        broken += BROKEN in candidate.text
        num_tokens += candidate.num_tokens
        characters += len(candidate.text)
        texts.setdefault(candidate.prompt_id, []).append(content_id(candidate.text))  # a hash: responses are long
    repeated = [found for found in texts.values() if len(found) >= 2]
    return {
        "responses": made,
        "errors": error_kinds(errors),
        "truncated": truncated / made if made else None,
        "empty": empty,
        "broken_character": broken,
        "identical_draws": sum(len(set(found)) == 1 for found in repeated) / len(repeated) if repeated else None,
        "tokens": num_tokens,
        "tokens_mean": num_tokens / made if made else None,
        "characters_mean": characters / made if made else None,
        "summary": f"{made} responses, {len(errors)} errors",
    }
