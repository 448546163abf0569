"""EFT examples as pure functions: which judged replies are kept, how scores are balanced, the SFT example of each.

Paper (section 3.1.1): the SFT baseline writes a justification and a score for every ranked reply; an item is kept where
the ranking by score agrees with the human ranking; part of the most common score is discarded.

"Agrees" here (the paper does not define it): an instruction is kept when, among its replies whose judgement parses, at
least two remain, no reply that humans ranked higher has a lower score than one that they ranked lower, and the scores
are not all equal. Equal scores of neighbours are allowed, because six integer scores cannot order every ranking. All
of an instruction's parsed replies are kept, or none.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nemo_srlm.core.records import RankedReply, SftExample, content_id
from nemo_srlm.judge.scores import judge_input


@dataclass(frozen=True)
class JudgedReply:
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


def keep_agreeing(judged: Iterable[JudgedReply], counts: Counter[str]) -> list[JudgedReply]:
    """The judged replies of the instructions that agree, in input order; `counts` gets replies left out by reason."""
    groups: dict[str, list[JudgedReply]] = {}
    for item in judged:
        groups.setdefault(item.reply.instruction_id, []).append(item)
    kept: list[JudgedReply] = []
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


def keep_parsed(judged: Iterable[JudgedReply], counts: Counter[str]) -> list[JudgedReply]:
    """For judgements that come with the data: all whose score parses."""
    items = list(judged)
    kept = [item for item in items if item.score is not None]
    counts["unparsed"] += len(items) - len(kept)
    return kept


def of_ranks(replies: Iterable[RankedReply], max_score: int, before: str, counts: Counter[str]) -> list[JudgedReply]:
    """Targets made of the ranks alone: `before` and the score, for a model that cannot judge yet.

    Of an instruction with k different ranks the best reply gets max_score, the worst 0, and those between are spread
    evenly, rounded to whole scores. `counts` gets "no_order": replies of instructions with a single rank.
    """
    groups: dict[str, list[RankedReply]] = {}
    for reply in replies:
        groups.setdefault(reply.instruction_id, []).append(reply)
    made: list[JudgedReply] = []
    for group in groups.values():
        ranks = sorted({reply.rank for reply in group})
        if len(ranks) < 2:
            counts["no_order"] += len(group)
            continue
        for reply in group:
            score = (2 * max_score * (len(ranks) - 1 - ranks.index(reply.rank)) + len(ranks) - 1) // (
                2 * (len(ranks) - 1)
            )
            made.append(JudgedReply(reply, f"{before}{score}", float(score)))
    return made


def _hash_order(item: JudgedReply) -> bytes:
    return hashlib.sha256(f"resample {item.reply.id}".encode()).digest()


def balance(items: Sequence[JudgedReply], dominant_keep: float, counts: Counter[str]) -> list[JudgedReply]:
    """Discards part of the most common score: at most dominant_keep x the second most common score's count stays.

    Those that stay are chosen by a hash of the reply and keep the input order. With a single score all stay.
    """
    common = Counter(item.score for item in items).most_common(2)
    if len(common) < 2:
        return list(items)
    (dominant, number), (_, second) = common
    limit = min(number, max(int(dominant_keep * second), 1))
    stays = sorted((item for item in items if item.score == dominant), key=_hash_order)[:limit]
    kept_ids = {item.reply.id for item in stays}
    counts["dominant_score"] += number - limit
    return [item for item in items if item.score != dominant or item.reply.id in kept_ids]


def limit(items: Sequence[JudgedReply], number: int, counts: Counter[str]) -> list[JudgedReply]:
    """At most `number` items (0 = all), chosen by a hash of the reply, in input order."""
    if not number or len(items) <= number:
        return list(items)
    counts["not_needed"] += len(items) - number
    kept_ids = {item.reply.id for item in sorted(items, key=_hash_order)[:number]}
    return [item for item in items if item.reply.id in kept_ids]


def examples(items: Iterable[JudgedReply], template: str, counts: Counter[str]) -> list[SftExample]:
    """The judge's input and the judgement as SFT examples.

    `counts` gets "duplicate": the same response twice among the replies, with the same judgement.
    """
    made: dict[str, SftExample] = {}
    for item in items:
        prompt = judge_input(template, item.reply.instruction, item.reply.response)
        response = item.text.strip()
        example_id = content_id("eft", prompt, response)
        counts["duplicate"] += example_id in made
        made[example_id] = SftExample(example_id, prompt, response, "eft", item.reply.id)
    return list(made.values())


def score_counts(items: Iterable[JudgedReply]) -> dict[str, int]:
    """Number of items of each score; "none" for those without."""
    counts = Counter("none" if item.score is None else f"{item.score:g}" for item in items)
    return dict(sorted(counts.items()))
