"""Self-taught judge pairs: a response and one that is worse for the same instruction say which judgements are right.

Self-Taught Evaluators (Wang et al. 2024, arXiv 2408.02666): the worse response answers a modified instruction, so the order of
the two is known without labels, and judgements that get it right are kept. There the judge compares two responses; here it
scores each, so a judgement of the better response is right about each judgement of the worse one that has a lower score.
"""

from collections.abc import Sequence

from nemo_srlm.judge.meta import Draw


def _right(draws: Sequence[Draw], others: Sequence[Draw], better: bool) -> list[int]:
    """Of each draw, about how many of the other response's draws it is right."""
    return [sum((d.score > o.score) if better else (d.score < o.score) for o in others) for d in draws]


def right_against_wrong(draws: Sequence[Draw], others: Sequence[Draw], better: bool) -> tuple[Draw, Draw] | str:
    """(chosen, rejected): the draw that is right most often against the one that is least often, the first of equals.

    `better`: whether the draws are about the better response. The reason for none: "too_few_draws", "never_right",
    "undecided" (all draws are right equally often).
    """
    if len(draws) < 2 or not others:
        return "too_few_draws"
    counts = _right(draws, others, better)
    if not any(counts):
        return "never_right"
    if min(counts) == max(counts):
        return "undecided"
    return draws[counts.index(max(counts))], draws[counts.index(min(counts))]
