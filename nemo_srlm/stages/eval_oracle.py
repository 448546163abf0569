"""eval_oracle (tiny only): a model's answers to the held-out prompts, scored by the oracle.

The final evaluation: nothing but the report reads it. Correctness stands apart from the mean score: in a small world
style moves long before correctness does. Standard errors are clustered by prompt: the samples of one prompt are not
independent.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.records import Candidate, Prompt, Record
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.errors import DataError
from nemo_srlm.tiny_world import oracle
from nemo_srlm.tiny_world.questions import FAMILIES, parse

MAX_LEVEL = 5
OUTPUT = "scores.jsonl"


@dataclass(frozen=True)
class OracleScore(Record):
    """The oracle's score of one response, for the report's samples. id = the response's id."""

    prompt_id: str
    level: int
    correctness: float
    framed: bool
    clean: bool


@dataclass(frozen=True)
class Answer:
    """One response with its prompt's family and the oracle's score (level 0 for a response that failed)."""

    id: str
    prompt_id: str
    family: str
    text: str
    score: oracle.Score


def score_responses(responses: Path, prompts: Path) -> list[Answer]:
    """Raises DataError for a response to an unknown prompt, a prompt outside this world, and an empty file."""
    texts = {prompt.id: prompt.text for prompt in read_records(prompts, Prompt)}
    answers = []
    for response in read_records(responses, Candidate):
        if response.prompt_id not in texts:
            raise DataError(
                responses,
                f"a response to prompt {response.prompt_id}",
                f"a prompt of {prompts}",
                "run eval_responses again",
            )
        question = parse(texts[response.prompt_id])
        if question is None:
            raise DataError(prompts, f"prompt {response.prompt_id} is no question of the tiny world")
        found = oracle.score(question, response.text)
        assert found is not None
        answers.append(Answer(response.id, response.prompt_id, question.family, response.text, found))
    if not answers:
        raise DataError(responses, "no response", "the output of eval_responses")
    return answers


def clustered(values: Iterable[tuple[str, float]]) -> tuple[float, float]:
    """Mean over prompts of each prompt's mean, and its standard error (nan with one prompt)."""
    groups: dict[str, list[float]] = {}
    for prompt_id, value in values:
        groups.setdefault(prompt_id, []).append(value)
    means = [math.fsum(group) / len(group) for group in groups.values()]
    mean = math.fsum(means) / len(means)
    if len(means) < 2:
        return mean, 0.0
    variance = math.fsum((m - mean) ** 2 for m in means) / (len(means) - 1)
    return mean, math.sqrt(variance / len(means))


_FIGURES: dict[str, Callable[[Answer], float]] = {
    "mean": lambda answer: answer.score.level,
    "full": lambda answer: answer.score.level == MAX_LEVEL,
    "correct": lambda answer: answer.score.correctness,
    "all_correct": lambda answer: answer.score.correctness == 1.0,
    "framed": lambda answer: answer.score.framed,
    "clean": lambda answer: answer.score.clean,
    "words": lambda answer: len(answer.text.split()),
}


def summary(answers: Sequence[Answer]) -> dict[str, float]:
    """Mean score, shares of full marks, mean c, share with c = 1, shares framed and clean, words; each with its se_."""
    figures: dict[str, float] = {}
    for name, figure in _FIGURES.items():
        mean, error = clustered((answer.prompt_id, float(figure(answer))) for answer in answers)
        figures[name], figures[f"se_{name}"] = mean, error
    return figures


def metrics(answers: Sequence[Answer]) -> dict[str, Any]:
    """All figures, the same by family, and how many answers got each level."""
    by_family: Mapping[str, list[Answer]] = {name: [a for a in answers if a.family == name] for name in FAMILIES}
    return {
        **summary(answers),
        "num_prompts": len({answer.prompt_id for answer in answers}),
        "num_responses": len(answers),
        "levels": {str(k): sum(a.score.level == k for a in answers) for k in range(MAX_LEVEL + 1)},
        "families": {name: summary(group) for name, group in by_family.items() if group},
    }


def head_to_head(ours: Sequence[Answer], theirs: Sequence[Answer]) -> dict[str, float]:
    """Wins, ties and losses of `ours` by prompt (mean level of its samples), and the mean difference with its error.

    Raises DataError when the two do not answer the same prompts.
    """
    a, b = _by_prompt(ours), _by_prompt(theirs)
    if a.keys() != b.keys():
        raise DataError(
            "head to head", f"{len(a.keys() ^ b.keys())} prompts are answered by one side only", "the same prompts"
        )
    differences = [(prompt_id, a[prompt_id] - b[prompt_id]) for prompt_id in a]
    mean, error = clustered(differences)
    return {
        "win": sum(d > 0 for _, d in differences),
        "tie": sum(d == 0 for _, d in differences),
        "loss": sum(d < 0 for _, d in differences),
        "difference": mean,
        "se_difference": error,
    }


def _by_prompt(answers: Sequence[Answer]) -> dict[str, float]:
    groups: dict[str, list[int]] = {}
    for answer in answers:
        groups.setdefault(answer.prompt_id, []).append(answer.score.level)
    return {prompt_id: sum(levels) / len(levels) for prompt_id, levels in groups.items()}


def _inputs(responses: str) -> Callable[[Config, int], dict[str, Ref]]:
    return lambda cfg, iteration: {"responses": Ref(responses, iteration), "held_out": Ref("held_out", 0)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return {}


def _answers(ctx: Context) -> list[Answer]:
    return score_responses(ctx.inputs["responses"] / "responses.jsonl", ctx.inputs["held_out"] / "eval_prompts.jsonl")


def _run(ctx: Context) -> None:
    write_records(ctx.dir / OUTPUT, (OracleScore(a.id, a.prompt_id, **asdict(a.score)) for a in _answers(ctx)))


def _finalize(ctx: Context) -> dict[str, Any]:
    return metrics(_answers(ctx))


STAGE = Stage("eval_oracle", "cpu", _inputs("eval_responses"), _identity, _run, _finalize)
BASELINE = Stage("eval_oracle_baseline", "cpu", _inputs("eval_responses_baseline"), _identity, _run, _finalize)
