"""From scored candidates of one prompt to preference pairs, or the reason why there is none. Pure functions.

A pair needs two eligible candidates that differ as text and in score. Nothing is drawn at random, no unparsed score is
ever a number, and a prompt without a pair drops nothing else.

Reasons for a prompt without pairs: "no_candidates" (none was made), "too_few_eligible" (fewer than two with a score),
"same_text" (all of them, or all eligible ones, are one text), "tie" (all scores equal), "margin" (no difference above
pairs.min_margin), "same_text_or_margin" (scores differ enough only between equal texts), "best_too_low" (the best score is below
pairs.min_best), "no_anchors" (pairs.rejected_from=m1: no response of M1 has a score).
"""

import math
import random
from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

from nemo_srlm.config.generation import PairsSection
from nemo_srlm.core.records import PreferencePair, content_id, item_seed


class Scored(NamedTuple):
    """One candidate with its score (of the judge: the mean of its parsed draws); `score` is None when it is not eligible.

    `previous` is the score by the model before this one, where pairs.consistency asks for it. `made`: it could be generated;
    an empty text is made, too.
    """

    text: str
    score: float | None
    previous: float | None = None
    made: bool = True


Pairs = list[tuple[Scored, Scored]]  # (chosen, rejected)


def choose_pairs(
    candidates: Sequence[Scored], prompt_id: str, section: PairsSection, shuffle_seed: int | None,
    anchors: Sequence[Scored] | None = None,
) -> Pairs | str:  # fmt: skip
    """The pairs of one prompt, or the reason for none. `shuffle_seed`: of the random-score control; None = no shuffle.

    anchors: an earlier model's responses, of which the rejected one is taken; None = both are candidates.
    """
    # one that could not be generated has neither text nor score: it is not the same text as another
    candidates = [candidate for candidate in candidates if candidate.made]
    eligible = [candidate for candidate in candidates if candidate.score is not None]
    if anchors is None and any(len(c) > 1 and len({one.text for one in c}) == 1 for c in (candidates, eligible)):
        return "same_text"  # pooled, they would be one candidate, too few
    if section.pool_equal_texts:
        candidates = pool_equal_texts(candidates)
        anchors = anchors and pool_equal_texts([anchor for anchor in anchors if anchor.made])
    if shuffle_seed is not None:  # after pooling, so that control and treatment choose among the same candidates
        candidates = permute_scores(candidates, shuffle_seed, prompt_id)
    scores = [candidate.score for candidate in candidates if candidate.score is not None]
    if section.min_best and scores and max(scores) < section.min_best:
        return "best_too_low"
    if anchors is None:
        return select(candidates, section)
    if shuffle_seed is not None:
        anchors = permute_scores(anchors, shuffle_seed, f"anchors {prompt_id}")
    return select_anchored(candidates, anchors, section)


def select_anchored(candidates: Sequence[Scored], anchors: Sequence[Scored], section: PairsSection) -> Pairs | str:
    """(best candidate, worst anchor), the pair of Temporal Self-Rewarding (arXiv 2508.06026), or the reason for none.

    Its difference is above `min_margin`; of equal scores the earlier response is taken.
    """
    ours = [(c, c.score) for c in candidates if c.score is not None]
    theirs = [(c, c.score) for c in anchors if c.score is not None]
    if not ours or not theirs:
        return "no_anchors" if ours else "too_few_eligible" if candidates else "no_candidates"
    (chosen, high), (rejected, low) = max(ours, key=_score), min(theirs, key=_score)
    if chosen.text == rejected.text:
        return "same_text"
    if high == low:
        return "tie"
    return [(chosen, rejected)] if high - low > section.min_margin else "margin"


def _score(scored: tuple[Scored, float]) -> float:
    return scored[1]


def certainty(candidates: Sequence[Scored]) -> float | None:
    """How much two rankings of the candidates agree, 0 to 1: (tau + 1) / 2 with Kendall's tau (CREAM, arXiv 2410.12735).

    tau is the number of pairs in one order minus that of pairs in opposite orders, over all pairs; a tie counts for neither.
    None with fewer than two candidates that both models gave a score.
    """
    both = [(c.score, c.previous) for c in candidates if c.score is not None and c.previous is not None]
    signs = [_sign(a - c) * _sign(b - d) for i, (a, b) in enumerate(both) for c, d in both[i + 1 :]]
    return (sum(signs) / len(signs) + 1.0) / 2.0 if signs else None


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def pool_equal_texts(candidates: Sequence[Scored]) -> list[Scored]:
    """One candidate per text, scored by the mean over its copies: the same text judged twice has one quality.

    Without this, a high and a low score of one text are compared with the other texts separately.
    """
    copies: dict[str, list[Scored]] = {}
    for candidate in candidates:
        copies.setdefault(candidate.text, []).append(candidate)
    return [
        Scored(text, _mean(c.score for c in same), _mean(c.previous for c in same)) for text, same in copies.items()
    ]


def _mean(scores: Iterable[float | None]) -> float | None:
    found = [score for score in scores if score is not None]
    return math.fsum(found) / len(found) if found else None


def permute_scores(candidates: Sequence[Scored], run_seed: int, prompt_id: str) -> list[Scored]:
    """The random-score control: the same scores, shuffled among the eligible candidates by a seed of run and prompt."""
    scores = [candidate.score for candidate in candidates if candidate.score is not None]
    random.Random(item_seed(run_seed, "random_arm", prompt_id)).shuffle(scores)
    shuffled = iter(scores)
    return [
        candidate if candidate.score is None else candidate._replace(score=next(shuffled)) for candidate in candidates
    ]


def differences(prompt_id: str, candidates: Sequence[Scored], pairs: Pairs) -> dict[str, float]:
    """Pair id -> the score of its chosen text minus that of its rejected one in `candidates`; equal texts have their mean."""
    own = {one.text: one.score or 0.0 for one in pool_equal_texts(candidates)}
    return {
        content_id("pair", prompt_id, chosen.text, rejected.text): own[chosen.text] - own[rejected.text]
        for chosen, rejected in pairs
    }


def select(candidates: Sequence[Scored], section: PairsSection) -> Pairs | str:
    """(chosen, rejected) of one prompt, the rule's pair first, at most `max_per_prompt`; or the reason for none.

    max_min: the largest difference first (equal differences: the higher chosen score, then the earlier candidate).
    length_controlled (Meta-Rewarding, arXiv 2407.19594, section 2): with high and low the prompt's best and worst score,
    chosen from [(1 - rho) high + rho low, high], rejected from [low, (1 - rho) low + rho high]; the shortest chosen text
    first, then the longest rejected text (characters).
    Both: the difference is above `min_margin`, the texts differ, and no pair of texts comes twice.
    """
    eligible = [candidate for candidate in candidates if candidate.score is not None]
    if len(eligible) < 2:
        return "too_few_eligible" if candidates else "no_candidates"
    if len(eligible) == len({candidate.text for candidate in eligible}) and section.max_per_prompt == 1:
        quick = _max_min_of_distinct(eligible, section)
        if quick is not None:
            return quick
    return _select(eligible, section)


def _max_min_of_distinct(eligible: list[Scored], section: PairsSection) -> Pairs | str | None:
    """The common case without sorting all combinations; None when it does not apply."""
    if section.rule != "max_min":
        return None
    scores = [candidate.score or 0.0 for candidate in eligible]
    high, low = max(scores), min(scores)
    if high == low:
        return "tie"
    if not high - low > section.min_margin:
        return "margin"
    return [(eligible[scores.index(high)], eligible[scores.index(low)])]


def _select(eligible: list[Scored], section: PairsSection) -> Pairs | str:
    scored = [(candidate, candidate.score or 0.0) for candidate in eligible]
    high, low = max(score for _, score in scored), min(score for _, score in scored)
    if len({candidate.text for candidate in eligible}) == 1:
        return "same_text"
    if high == low:
        return "tie"
    if not high - low > section.min_margin:
        return "margin"
    near = section.rho * (high - low) if section.rule == "length_controlled" else float("inf")
    best = [(c, s) for c, s in scored if s >= high - near]
    worst = [(c, s) for c, s in scored if s <= low + near]
    usable = [
        (c, r, c_score - r_score)
        for (c, c_score), (r, r_score) in product(best, worst)
        if c_score > r_score and c_score - r_score > section.min_margin and c.text != r.text
    ]
    if section.rule == "length_controlled":
        usable.sort(key=lambda pair: (len(pair[0].text), -len(pair[1].text), -pair[2]))
    else:
        usable.sort(key=lambda pair: (-pair[2], -(pair[0].score or 0.0)))
    chosen: dict[tuple[str, str], tuple[Scored, Scored]] = {}
    for c, r, _ in usable:
        if (r.text, c.text) not in chosen:  # equal texts judged apart may contradict each other: the first wins
            chosen.setdefault((c.text, r.text), (c, r))
    return list(chosen.values())[: section.max_per_prompt] or "same_text_or_margin"


def to_records(
    prompt_id: str, prompt: str, pairs: Sequence[tuple[Scored, Scored]], scale: float | None = None
) -> list[PreferencePair]:
    """scale: that of the scores, for pairs that are weighted by their margin over it; None = all weigh 1."""
    return [
        PreferencePair(
            content_id("pair", prompt_id, chosen.text, rejected.text),
            prompt_id, prompt, chosen.text, rejected.text, chosen.score, rejected.score,
            1.0 if scale is None else ((chosen.score or 0.0) - (rejected.score or 0.0)) / scale,
        )
        for chosen, rejected in pairs
    ]  # fmt: skip
