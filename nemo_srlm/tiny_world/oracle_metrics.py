"""A model's responses to the held-out prompts, scored by the oracle: the final evaluation of the tiny world.

Correctness is reported separately from the mean score: in a small world style improves long before correctness does.
Standard errors are clustered by prompt: the samples of one prompt are not independent.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Candidate, Prompt, Record
from nemo_srlm.errors import DataError
from nemo_srlm.tiny_world import oracle
from nemo_srlm.tiny_world.questions import FAMILIES, parse

MAX_LEVEL = 5


@dataclass(frozen=True)
class OracleScore(Record):
    """The oracle's score of one response, for the report's samples. id = the response's id."""

    prompt_id: str
    level: int
    correctness: float
    framed: bool
    clean: bool


@dataclass(frozen=True)
class ScoredResponse:
    """One response with its prompt's family and the oracle's score (level 0 for a response that failed)."""

    id: str
    prompt_id: str
    family: str
    text: str
    score: oracle.Score


def score_responses(responses: Path, prompts: Path) -> list[ScoredResponse]:
    """Raises DataError for a response to an unknown prompt, a prompt outside this world, and an empty file."""
    texts = {prompt.id: prompt.text for prompt in read_records(prompts, Prompt)}
    scored = []
    for response in read_records(responses, Candidate):
        if response.prompt_id not in texts:
            raise DataError(
                responses, f"a response to prompt {response.prompt_id}", f"a prompt of {prompts}",
                "run eval_responses again",
            )  # fmt: skip
        question = parse(texts[response.prompt_id])
        if question is None:
            raise DataError(prompts, f"prompt {response.prompt_id} is no question of the tiny world")
        found = oracle.score(question, response.text)
        assert found is not None
        scored.append(ScoredResponse(response.id, response.prompt_id, question.family, response.text, found))
    if not scored:
        raise DataError(responses, "no response", "the output of eval_responses")
    return scored


def clustered(values: Iterable[tuple[str, float]]) -> tuple[float, float]:
    """Mean over prompts of each prompt's mean, and its standard error (0 with one prompt)."""
    groups: dict[str, list[float]] = {}
    for prompt_id, value in values:
        groups.setdefault(prompt_id, []).append(value)
    means = [math.fsum(group) / len(group) for group in groups.values()]
    mean = math.fsum(means) / len(means)
    if len(means) < 2:
        return mean, 0.0
    variance = math.fsum((m - mean) ** 2 for m in means) / (len(means) - 1)
    return mean, math.sqrt(variance / len(means))


_FIGURES: dict[str, Callable[[ScoredResponse], float]] = {
    "mean": lambda r: r.score.level,
    "full": lambda r: r.score.level == MAX_LEVEL,
    "correct": lambda r: r.score.correctness,
    "all_correct": lambda r: r.score.correctness == 1.0,
    "framed": lambda r: r.score.framed,
    "clean": lambda r: r.score.clean,
    "words": lambda r: len(r.text.split()),
}


def summary(scored: Sequence[ScoredResponse]) -> dict[str, float]:
    """Mean score, shares of full marks, mean c, share with c = 1, shares framed and clean, words; each with its se_."""
    figures: dict[str, float] = {}
    for name, figure in _FIGURES.items():
        mean, error = clustered((r.prompt_id, float(figure(r))) for r in scored)
        figures[name], figures[f"se_{name}"] = mean, error
    return figures


def metrics(scored: Sequence[ScoredResponse]) -> dict[str, Any]:
    """All figures, the same by family, and how many responses have each level."""
    by_family: Mapping[str, list[ScoredResponse]] = {name: [r for r in scored if r.family == name] for name in FAMILIES}
    return {
        **summary(scored),
        "num_prompts": len({r.prompt_id for r in scored}),
        "num_responses": len(scored),
        "levels": {str(k): sum(r.score.level == k for r in scored) for k in range(MAX_LEVEL + 1)},
        "families": {name: summary(group) for name, group in by_family.items() if group},
    }
