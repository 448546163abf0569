"""The scores that evaluations keep of single responses, as the report and later evaluations read them: the oracle's of
eval_oracle (scores.jsonl), and the log-probabilities of eval_kl (scored.jsonl).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nemo_srlm.core.files import read_records, read_typed_lines
from nemo_srlm.core.records import Record

OWN, PREVIOUS = MODELS = ("own", "previous")  # of eval_kl


@dataclass(frozen=True)
class OracleLevel:
    """A line of scores.jsonl, as far as it is read: `level` 0 to 5, `correctness` 0 to 1."""

    id: str
    prompt_id: str
    level: float
    correctness: float


@dataclass(frozen=True)
class TokenScore(Record):
    """Log-probability of one response under one model, summed over its tokens."""

    response_id: str
    prompt_id: str
    model: str  # own | previous
    logp: float
    num_tokens: int
    error: str = ""


def oracle_levels(path: Path) -> Iterator[OracleLevel]:
    """The oracle's scores of a model's responses. Raises DataError with the line of what is none."""
    return read_typed_lines(path, OracleLevel)


def token_scores(path: Path) -> list[tuple[TokenScore, TokenScore]]:
    """(under the newer policy, under the one before) of each response."""
    scores: dict[str, dict[str, TokenScore]] = {model: {} for model in MODELS}
    for score in read_records(path, TokenScore):
        scores[score.model][score.response_id] = score
    return [(own, scores[PREVIOUS][key]) for key, own in scores[OWN].items()]


def scored(pairs: list[tuple[TokenScore, TokenScore]]) -> list[tuple[TokenScore, TokenScore]]:
    """Those that both models scored."""
    return [(a, b) for a, b in pairs if not a.error and not b.error and a.num_tokens]
