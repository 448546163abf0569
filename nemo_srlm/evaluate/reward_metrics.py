"""The paper's five reward-model metrics on human-ranked replies, with intervals and counts.

arXiv 2401.10020, section 3.1, "Evaluation Metrics", names the metrics. What it does not specify is defined here:
- A reply's score is the unrounded mean of its parsed draws; with fewer than `min_valid` it has none. A reply without a
  score is in no pair and no correlation (counted), and its instruction is no exact match.
- Pairs that humans rank equal are left out. A pair that the judge scores equal counts as half right in
  `pairwise_accuracy` (a judge that always says 4 gets .5, as guessing would) and as wrong in `pairwise_strict`.
- Exact match: the judge orders every pair of an instruction that humans order, in the same way. Without a single scored
  pair there is none: a judge that states no score is not measured, and does not get 0.
- Spearman and Kendall (tau-b) are averaged over instructions; one whose replies all have the same score counts as 0.
- 5-best: of the replies with the full score, the share that humans rank best (ties for best count).
Intervals: 95%, of statistics.py over INSTRUCTIONS, since replies to one instruction are not independent.
Shapes: I instructions, K summed quantities.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from nemo_srlm.core.records import Judgement, RankedReply
from nemo_srlm.evaluate import statistics
from nemo_srlm.judge.scores import aggregate

Array = npt.NDArray[np.float64]

METRICS = ("pairwise_accuracy", "pairwise_strict", "five_best", "exact_match", "spearman", "kendall")
_SUMS = ("pairs", "agree", "tied", "perfect", "perfect_best", "exact", "spearman", "kendall", "ranked", "instructions")


def average_ranks(values: Sequence[float]) -> Array:
    """Ranks from 1; equal values all get the mean of their ranks."""
    x = np.asarray(values, dtype=np.float64)
    below: Array = (x[:, None] > x[None, :]).sum(1).astype(np.float64)
    equal: Array = (x[:, None] == x[None, :]).sum(1).astype(np.float64)
    return below + (equal + 1.0) / 2.0


def pearson(a: Array, b: Array) -> float | None:
    """Pearson's correlation; None where either side is constant, which leaves it undefined."""
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else None


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation, tied values at their mean rank; None where either side is constant."""
    return pearson(average_ranks(a), average_ranks(b))


def kendall(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Kendall's tau-b (corrected for ties); None where either side is constant."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    upper = np.triu_indices(len(x), 1)
    sx, sy = np.sign(x[:, None] - x[None, :])[upper], np.sign(y[:, None] - y[None, :])[upper]
    scale = math.sqrt(float((sx * sx).sum()) * float((sy * sy).sum()))
    return float((sx * sy).sum()) / scale if scale > 0 else None


def _one_instruction(replies: Sequence[RankedReply], scores: Sequence[float | None], max_score: float) -> list[float]:
    """The K summed quantities of one instruction, in the order of _SUMS."""
    scored = [(r.rank, s) for r, s in zip(replies, scores, strict=True) if s is not None]
    best = min(r.rank for r in replies)
    pairs = agree = tied = 0
    for (rank_a, score_a), (rank_b, score_b) in combinations(scored, 2):
        if rank_a == rank_b:
            continue
        pairs += 1
        tied += score_a == score_b
        agree += (score_a > score_b) == (rank_a < rank_b) and score_a != score_b
    perfect = [rank for rank, score in scored if score >= max_score]
    rho = tau = 0.0
    ranked = pairs > 0  # at least two scored replies that humans order
    if ranked:
        human, judge = [-float(rank) for rank, _ in scored], [score for _, score in scored]
        rho, tau = spearman(human, judge) or 0.0, kendall(human, judge) or 0.0
    exact = ranked and agree == pairs and len(scored) == len(replies)
    return [pairs, agree, tied, len(perfect), sum(r == best for r in perfect), exact, rho, tau, ranked, 1.0]


# metric -> (numerator, denominator, smallest value); "pairs_right" is agree + tied / 2
_RATIOS = {
    "pairwise_accuracy": ("pairs_right", "pairs", 0.0),
    "pairwise_strict": ("agree", "pairs", 0.0),
    "five_best": ("perfect_best", "perfect", 0.0),
    "exact_match": ("exact", "instructions", 0.0),
    "spearman": ("spearman", "ranked", -1.0),
    "kendall": ("kendall", "ranked", -1.0),
}


def by_instruction(
    replies: Sequence[RankedReply], judgements: Mapping[str, Judgement], min_valid: int, max_score: float = 5
) -> dict[str, dict[str, float]]:
    """Instruction (with replies that humans order) -> the quantities that the metrics are ratios of."""
    groups: dict[str, list[RankedReply]] = {}
    for reply in replies:
        groups.setdefault(reply.instruction_id, []).append(reply)
    found = {}
    for name, group in groups.items():
        if len({r.rank for r in group}) < 2:
            continue
        scores = [aggregate(j.scores, min_valid) if (j := judgements.get(r.id)) else None for r in group]
        row = dict(zip(_SUMS, _one_instruction(group, scores, max_score), strict=True))
        found[name] = {**row, "pairs_right": row["agree"] + 0.5 * row["tied"]}
    return found


def units_of(rows: Mapping[str, Mapping[str, float]], metric: str) -> statistics.Units:
    """A metric's numerator and denominator by instruction; {} where nothing was scored."""
    over, under, _ = _RATIOS[metric]
    if not any(row["ranked"] for row in rows.values()):
        return {}
    return {name: (row[over], row[under]) for name, row in rows.items()}


def reward_metrics(
    replies: Sequence[RankedReply],
    judgements: Mapping[str, Judgement],
    min_valid: int,
    max_score: float = 5,
    intervals: bool = True,
) -> dict[str, Any]:
    """The five metrics of a judge on `replies`; `judgements` is keyed by the reply's id.

    Returns plain JSON data: each of METRICS as a fraction (None where its denominator is 0), `intervals` (95%,
    metric -> [low, high] or None), `score_histogram` (mean score rounded -> replies) and `counts`: replies, scored,
    unscored (too few parsed draws), unjudged (no judgement at all), instructions (with replies that humans order),
    pairs, tied_pairs, human_ties, perfect, constant (instructions whose replies all score alike), draws, failed_draws,
    errors.
    """
    groups: dict[str, list[RankedReply]] = {}
    for reply in replies:
        groups.setdefault(reply.instruction_id, []).append(reply)
    usable = [g for g in groups.values() if len({r.rank for r in g}) >= 2]

    def score(reply: RankedReply) -> float | None:
        judgement = judgements.get(reply.id)
        return aggregate(judgement.scores, min_valid) if judgement else None

    scores = {r.id: score(r) for r in replies}
    rows = by_instruction(replies, judgements, min_valid, max_score)
    totals = {name: sum(row[name] for row in rows.values()) for name in _SUMS}
    found = {name: statistics.mean(units_of(rows, name), low, 1.0) for name, (_, _, low) in _RATIOS.items()}
    judged = [judgements[r.id] for r in replies if r.id in judgements]
    scored = [s for s in scores.values() if s is not None]
    return {
        **{name: None if f is None else f.value for name, f in found.items()},
        "intervals": {name: [f.low, f.high] if f and intervals else None for name, f in found.items()},
        "counts": {
            "replies": len(replies),
            "scored": len(scored),
            "unscored": len(judged) - len(scored),
            "unjudged": len(replies) - len(judged),
            "instructions": len(usable),
            "instructions_without_order": len(groups) - len(usable),
            "instructions_ranked": int(totals["ranked"]),
            "constant": sum(_is_constant([scores[r.id] for r in g]) for g in usable),
            "pairs": int(totals["pairs"]),
            "tied_pairs": int(totals["tied"]),
            "human_ties": sum(a.rank == b.rank for g in groups.values() for a, b in combinations(g, 2)),
            "perfect": int(totals["perfect"]),
            "draws": sum(len(j.scores) for j in judged),
            "failed_draws": sum(s is None for j in judged for s in j.scores),
            "errors": sum(bool(j.error) for j in judged),
        },
        "score_histogram": histogram(scored),
    }


def histogram(scores: Iterable[float]) -> dict[str, int]:
    """Scores rounded to the nearest integer (half rounds up), "0", "1", ... -> count, ascending."""
    out: dict[int, int] = {}
    for score in scores:
        key = math.floor(score + 0.5)
        out[key] = out.get(key, 0) + 1
    return {str(k): out[k] for k in sorted(out)}


def _is_constant(scores: Sequence[float | None]) -> bool:
    scored = [s for s in scores if s is not None]
    return len(scored) >= 2 and len(set(scored)) == 1
