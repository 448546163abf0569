"""Judge pairs: which of a judge's own draws about one response are preferred to which. Pure functions.

Meta-Rewarding (Wu et al. 2024, arXiv 2407.19594): the response whose scores differ most is taken, the model compares
its judgements two by two in both orders, and the judgement with the highest Elo score is preferred to that with the lowest.
Guards: a winner may not be too long, and winners may not raise the score more often than `max_rise`.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from nemo_srlm.config.methods import JudgeTrainingSection
from nemo_srlm.core.records import Judgement, PreferencePair, content_id
from nemo_srlm.data.words import BROKEN, count_words
from nemo_srlm.judge.scores import spread

PRIOR = 0.1  # wins that each judgement has over each other one before any comparison: a judgement that wins all stays finite
STEPS = 200  # of the fixed-point iteration, which has converged long before for a handful of judgements


@dataclass(frozen=True)
class Draw:
    """One judgement of a response that states a score."""

    text: str
    score: float


def draws(judgement: Judgement) -> list[Draw]:
    """The draws that may be trained on, in order: see `why_unusable`."""
    found = zip(judgement.texts, judgement.scores, why_unusable(judgement), strict=True)
    return [Draw(text, score) for text, score, reason in found if not reason and score is not None]


def why_unusable(judgement: Judgement) -> list[str]:
    """Of each draw why it is not trained on, or "": "unparsed", "cut_off" (at the token limit, which would teach not to end),
    "broken_character" (bytes that are no character, which would teach to write them), "repeated" (an earlier draw's text)."""
    reasons: list[str] = []
    seen: set[str] = set()
    for text, score, finish in zip(judgement.texts, judgement.scores, judgement.finish_reasons, strict=True):
        reason = "unparsed" if score is None else "cut_off" if finish != "stop" else ""
        reason = reason or ("broken_character" if BROKEN in text else "repeated" if text in seen else "")
        reasons.append(reason)
        if not reason:
            seen.add(text)
    return reasons


def least_certain(judgements: Sequence[Judgement]) -> Judgement | None:
    """The judgement whose scores differ most, the first of equals; None where no response has two different scores.

    The scores are those of the draws that may be trained on: another draw's makes no pair.
    """
    usable = [j for j in judgements if len({draw.score for draw in draws(j)}) > 1]
    return max(usable, key=_spread_of_draws, default=None)


def _spread_of_draws(judgement: Judgement) -> float:
    return spread(replace(judgement, scores=tuple(draw.score for draw in draws(judgement)))) or 0.0


def compared(judgement: Judgement) -> list[tuple[int, int]]:
    """The pairs of indices of `draws` that are compared."""
    return list(combinations(range(len(draws(judgement))), 2))


# --- from verdicts to a ranking ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Battle:
    """Two draws compared in both orders. `first`: the verdict with `a` in place A; `second`: with `a` in place B."""

    a: int
    b: int
    first: str  # "A", "B", "tie" or ""
    second: str


def position_weights(battles: Sequence[Battle]) -> tuple[float, float]:
    """Weights of a win in place A and in place B: the share of all wins in the other place, so that both places win alike."""
    verdicts = Counter(verdict for battle in battles for verdict in (battle.first, battle.second))
    wins = verdicts["A"] + verdicts["B"]
    return (verdicts["B"] / wins, verdicts["A"] / wins) if wins else (0.5, 0.5)


def wins(battles: Sequence[Battle], number: int, weights: tuple[float, float]) -> list[list[float]]:
    """[i][j]: the weighted wins of draw i over draw j. A tie is half a win for both; an unparsable verdict is none."""
    found = [[0.0] * number for _ in range(number)]
    for battle in battles:
        for verdict, in_a, in_b in ((battle.first, battle.a, battle.b), (battle.second, battle.b, battle.a)):
            share = {"tie": 0.5}.get(verdict, 1.0)
            if verdict in ("A", "tie"):
                found[in_a][in_b] += share * weights[0]
            if verdict in ("B", "tie"):
                found[in_b][in_a] += share * weights[1]
    return found


def win_shares(won: Sequence[Sequence[float]]) -> list[float]:
    """The share of each draw's comparisons that it won; 0.5 without any."""
    lost = [sum(row[i] for row in won) for i in range(len(won))]
    return [sum(row) / (sum(row) + lost[i]) if sum(row) + lost[i] else 0.5 for i, row in enumerate(won)]


def elo(won: Sequence[Sequence[float]]) -> list[float]:
    """Strengths e with P(i wins against j) = 1 / (1 + exp(e_j - e_i)) of the greatest likelihood (Bradley-Terry), mean 0."""
    number = len(won)
    total = [[won[i][j] + PRIOR if i != j else 0.0 for j in range(number)] for i in range(number)]
    strength = [1.0] * number
    for _ in range(STEPS):
        strength = [
            sum(total[i])
            / math.fsum((total[i][j] + total[j][i]) / (strength[i] + strength[j]) for j in range(number) if j != i)
            for i in range(number)
        ]
        mean = math.exp(math.fsum(map(math.log, strength)) / number)
        strength = [value / mean for value in strength]
    return [math.log(value) for value in strength]


# --- judge pairs ------------------------------------------------------------------------------------------------------


def best_and_worst(found: Sequence[Draw], strengths: Sequence[float]) -> tuple[Draw, Draw] | str:
    """(best, worst) draw, or the reason for none: "undecided" (equal strengths)."""
    order = sorted(range(len(found)), key=lambda i: -strengths[i])
    best, worst = order[0], order[-1]
    return (found[best], found[worst]) if strengths[best] - strengths[worst] > 1e-9 else "undecided"


def any_two(found: Sequence[Draw], judgement_id: str) -> tuple[Draw, Draw]:
    """Two draws of different scores in an order that a hash decides: the control without any label."""
    pairs = [(a, b) for a in found for b in found if a.score != b.score]
    return pairs[int(hashlib.sha256(f"any draw {judgement_id}".encode()).hexdigest(), 16) % len(pairs)]


def to_pair(judgement: Judgement, prompt: str, chosen: Draw, rejected: Draw) -> PreferencePair:
    """A pair of judgements of one response. `prompt`: the judge's input."""
    pair_id = content_id("judge_pair", judgement.id, chosen.text, rejected.text)
    return PreferencePair(
        pair_id, judgement.prompt_id, prompt, chosen.text, rejected.text, chosen.score, rejected.score
    )


def is_too_long(draw: Draw, max_words: int) -> bool:
    return max_words > 0 and count_words(draw.text) > max_words


def _by_hash(pairs: Sequence[PreferencePair], number: int) -> list[PreferencePair]:
    """`number` of the pairs, chosen by a hash."""
    return sorted(pairs, key=lambda pair: hashlib.sha256(f"keep {pair.id}".encode()).digest())[:number]


def rises(pair: PreferencePair) -> bool:
    """Whether the preferred judgement has the higher score."""
    return (pair.chosen_score or 0.0) > (pair.rejected_score or 0.0)


def guarded(
    pairs: Sequence[PreferencePair], section: JudgeTrainingSection, num_responses: int
) -> tuple[list[PreferencePair], dict[str, str]]:
    """(the pairs that are kept, in their order; id of each other one -> "inflation" or "not_needed").

    At most `max_rise` of the kept pairs raise the score, and with `num_responses` pairs of responses they are at most
    `share` of all. Which ones are left out is decided by a hash.
    """
    up, rest = [pair for pair in pairs if rises(pair)], [pair for pair in pairs if not rises(pair)]
    if section.max_rise < 1:
        up = _by_hash(up, math.floor(section.max_rise / (1.0 - section.max_rise) * len(rest) + 1e-9))
    allowed = {pair.id for pair in (*up, *rest)}
    size = math.floor(section.share / (1.0 - section.share) * num_responses + 1e-9)
    if size < len(allowed):  # of both kinds alike: what raises the score stays within its bound
        most = size * len(up) // len(allowed)
        up, rest = _by_hash(up, most), _by_hash(rest, size - most)
    kept = {pair.id for pair in (*up, *rest)}
    reasons = {pair.id: "not_needed" if pair.id in allowed else "inflation" for pair in pairs if pair.id not in kept}
    return [pair for pair in pairs if pair.id in kept], reasons
