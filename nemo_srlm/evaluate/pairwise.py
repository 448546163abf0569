"""A pairwise judge: which candidates of a prompt are compared, and the scores that follow. Pure functions."""

from collections.abc import Iterable, Sequence
from itertools import combinations

from nemo_srlm.core.records import Candidate, Judgement
from nemo_srlm.evaluate.headtohead import Outcome

POINTS = {"win": 1.0, "tie": 0.5, "loss": 0.0}
TURNED: dict[Outcome, Outcome] = {"win": "loss", "loss": "win", "tie": "tie", "unjudged": "unjudged"}


def duels(candidates: Iterable[Candidate]) -> list[tuple[Candidate, Candidate]]:
    """All pairs of different texts among a prompt's candidates that were made; a text that comes twice is compared once."""
    first: dict[str, Candidate] = {}
    for candidate in candidates:
        if not candidate.error:
            first.setdefault(candidate.text, candidate)
    return list(combinations(first.values(), 2))


def judgements(
    candidates: Sequence[Candidate], outcomes: Sequence[tuple[Candidate, Candidate, Outcome]], max_score: int
) -> list[Judgement]:
    """One draw for each candidate of a prompt that was made: max_score x its share of wins, a tie is half of one.

    `outcomes` are those of the first of two. Copies of a text share its score. Without a readable verdict, and where all
    candidates are one text, there is no score.
    """
    points: dict[str, list[float]] = {}
    for ours, theirs, outcome in outcomes:
        for candidate, mine in ((ours, outcome), (theirs, TURNED[outcome])):
            if mine != "unjudged":
                points.setdefault(candidate.text, []).append(POINTS[mine])
    found = []
    for candidate in candidates:
        if not candidate.error:
            own = points.get(candidate.text)
            score = max_score * sum(own) / len(own) if own else None
            words = f"{sum(own):g} of {len(own)} comparisons" if own else "no comparison"
            found.append(Judgement(candidate.id, candidate.prompt_id, (score,), (words,), ("stop",)))
    return found
