"""EFT examples as pure functions: which judged replies are kept, how scores are balanced, what the example is.

Paper: the SFT baseline writes justification + score for every ranked reply; an item is kept where the ranking by score
agrees with the human ranking; part of the most common score is discarded.

"Agrees" here (the paper does not say): an instruction is kept when, among its replies whose judgement parses, at least
two remain, no reply that humans ranked higher has a lower score than one that they ranked lower, and the scores are
not all equal. Equal scores of neighbours are allowed, because six whole scores cannot order every ranking. All of an
instruction's parsed replies are kept, or none.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nemo_srlm.core.records import RankedReply, SftExample, content_id
from nemo_srlm.judge.scores import judge_input


@dataclass(frozen=True)
class Judged:
    """A ranked reply with the judgement written about it; `score` is None where it does not parse."""

    reply: RankedReply
    text: str
    score: float | None


def agrees(ranks_and_scores: Sequence[tuple[int, float]]) -> bool:
    """Whether scores order the replies as the ranks do (0 is the best): no inversion, and not all equal."""
    inverted = any(
        rank < other_rank and score < other_score
        for rank, score in ranks_and_scores
        for other_rank, other_score in ranks_and_scores
    )
    return not inverted and len({score for _, score in ranks_and_scores}) > 1


def keep_agreeing(judged: Iterable[Judged], counts: Counter[str]) -> list[Judged]:
    """The judged replies of the instructions that agree, in input order; `counts` gets replies left out by reason."""
    groups: dict[str, list[Judged]] = {}
    for item in judged:
        groups.setdefault(item.reply.instruction_id, []).append(item)
    kept: list[Judged] = []
    for group in groups.values():
        parsed = [(item, item.score) for item in group if item.score is not None]
        counts["unparsed"] += len(group) - len(parsed)
        if len(parsed) < 2:
            counts["alone"] += len(parsed)
        elif len({score for _, score in parsed}) == 1:
            counts["all_equal"] += len(parsed)
        elif not agrees([(item.reply.rank, score) for item, score in parsed]):
            counts["disagrees"] += len(parsed)
        else:
            kept += [item for item, _ in parsed]
    return kept


def keep_parsed(judged: Iterable[Judged], counts: Counter[str]) -> list[Judged]:
    """For judgements that the data brings: all whose score parses."""
    items = list(judged)
    kept = [item for item in items if item.score is not None]
    counts["unparsed"] += len(items) - len(kept)
    return kept


def _order(item: Judged) -> bytes:
    return hashlib.sha256(f"resample {item.reply.id}".encode()).digest()


def balance(items: Sequence[Judged], dominant_keep: float, counts: Counter[str]) -> list[Judged]:
    """Discards part of the most common score: at most dominant_keep x the second most common score's count stays.

    By a hash of the reply, in input order. With one score only there is nothing to balance against: all stay.
    """
    common = Counter(item.score for item in items).most_common(2)
    if len(common) < 2:
        return list(items)
    (dominant, number), (_, second) = common
    limit = min(number, max(int(dominant_keep * second), 1))
    stays = sorted((item for item in items if item.score == dominant), key=_order)[:limit]
    kept_ids = {item.reply.id for item in stays}
    counts["dominant_score"] += number - limit
    return [item for item in items if item.score != dominant or item.reply.id in kept_ids]


def limit(items: Sequence[Judged], number: int, counts: Counter[str]) -> list[Judged]:
    """At most `number` items (0 = all), chosen by a hash of the reply, in input order."""
    if not number or len(items) <= number:
        return list(items)
    counts["not_needed"] += len(items) - number
    kept_ids = {item.reply.id for item in sorted(items, key=_order)[:number]}
    return [item for item in items if item.reply.id in kept_ids]


def example(item: Judged, template: str) -> SftExample:
    """The judge's input and the judgement as something to imitate."""
    prompt = judge_input(template, item.reply.instruction, item.reply.response)
    response = item.text.strip()
    return SftExample(content_id("eft", prompt, response), prompt, response, "eft", item.reply.id)
