"""Splits Open Assistant first turns into IFT, ranked replies for EFT, held-out ranked replies and evaluation prompts.

An instruction (its text, ignoring case, spacing, punctuation and Unicode form) is in one set only, and none that is trained
on is a near copy of a held-out one. The sets are filled in the order of a hash of the instruction, which depends neither on
the order of the files nor on a seed.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nemo_srlm.config.schema import EftSection, SeedSection
from nemo_srlm.core.records import Prompt, RankedReply, SftExample, content_id
from nemo_srlm.data.near_copies import HeldOut, same_text
from nemo_srlm.data.oasst import FirstTurn, Reply

MAX_EVAL_SHARE = 1 / 8  # at most these shares of the data are held out, so that small data sets can still train
MAX_VALID_SHARE = 1 / 4
EFT_SHARE = 1 / 8  # of what is left, where there is less than IFT asks for


@dataclass(frozen=True)
class Split:
    """Records of the four sets, instructions disjoint, each in hash order."""

    ift: list[SftExample]
    ranked_train: list[RankedReply]
    ranked_valid: list[RankedReply]
    eval_prompts: list[Prompt]


def instruction_id(text: str) -> str:
    """The id in records, and the order of a split. Texts are compared by near_copies.same_text, which ignores more."""
    return content_id("instruction", " ".join(text.split()).casefold())


def split(
    turns: Iterable[FirstTurn], seed: SeedSection, eft: EftSection, counts: Counter[str], held_out: bool = True,
    shared_ift: bool = False,
) -> Split:  # fmt: skip
    """Sorts first turns into the sets; `counts` gets the numbers asked for, given, and left out by reason.

    IFT takes the reply that humans ranked 0 and nothing else. EFT material is every ranked reply of an instruction with
    at least two of them, or every ranked reply that has a judgement (eft.source "external"; instructions with judged
    replies then never go to IFT). The evaluation sets come first, then IFT, and the rest is EFT material; see `_ift_share`
    for too few. `held_out=False`: the held-out sets come from elsewhere (tiny world) and are empty here.
    `shared_ift`: nothing is trained on the IFT set (run.start=instruct; the prompt writer's demonstrations), so it may
    have instructions of the EFT material, which then gets all of them.
    """
    unique = _unique(turns, counts)
    usable: dict[str, tuple[FirstTurn, list[RankedReply], bool]] = {}
    for key, turn in unique.items():
        replies = _eft_replies(key, turn.text, turn.replies, eft.source, counts)
        can_ift = _best(turn) is not None and (shared_ift or not (eft.source == "external" and replies))
        if can_ift or replies or turn.later:
            usable[key] = (turn, replies, can_ift)
        else:
            counts["instruction_without_ranking"] += 1
    order = sorted(usable, key=lambda key: hashlib.sha256(f"split {key}".encode()).digest())

    num_eval = min(seed.num_eval_prompts, math.floor(len(order) * MAX_EVAL_SHARE)) if held_out else 0
    evaluation, order = order[:num_eval], order[num_eval:]
    rankable = [key for key in order if usable[key][1]]  # by first turns: the EFT evaluation has no others
    replies_each = sum(len(usable[key][1]) for key in rankable) / max(len(rankable), 1)
    most = math.floor(len(rankable) * MAX_VALID_SHARE) if held_out else 0
    valid = set(_take_until(rankable, {key: len(usable[key][1]) for key in rankable}, eft.num_valid)[:most])
    order = [key for key in order if key not in valid]
    apart = HeldOut((usable[key][0].text for key in (*evaluation, *valid)), seed.rouge_max)
    left = apart_from([usable[key][0] for key in order], apart, counts)
    order = [instruction_id(turn.text) for turn in left]
    material = {
        key: [*usable[key][1], *_later_replies(turn, eft.source, counts)] for key, turn in zip(order, left, strict=True)
    }

    for_ift = [key for key in order if usable[key][2]]
    for_eft = [key for key in order if material[key]] if eft.source != "none" else []
    want_eft = (eft.num_train or math.inf) / max(replies_each, 1)
    if not shared_ift:
        for_ift = _ift_keys(for_ift, for_eft, seed.num_ift or math.inf, want_eft)
        taken = set(for_ift)
        for_eft = [key for key in for_eft if key not in taken]
    for_ift = for_ift[: seed.num_ift or None]
    counts["instruction_not_needed"] += len(set(order) - {*for_ift, *for_eft})

    result = Split(
        ift=[_ift_example(usable[key][0]) for key in for_ift],
        ranked_train=[reply for key in for_eft for reply in material[key]],
        ranked_valid=[reply for key in rankable if key in valid for reply in usable[key][1]],
        eval_prompts=[_eval_prompt(usable[key][0].text) for key in evaluation],
    )
    for name, asked, got in (
        ("ift", seed.num_ift, len(result.ift)),
        ("ranked_valid", eft.num_valid, len(result.ranked_valid)),
        ("eval_prompts", seed.num_eval_prompts, len(result.eval_prompts)),
    ):
        counts[f"asked_{name}"], counts[name] = asked, got
    counts["ranked_train"] = len(result.ranked_train)
    return result


def _ift_keys(for_ift: list[str], for_eft: list[str], want_ift: float, want_eft: float) -> list[str]:
    """The instructions for IFT: first what only IFT can use, then its share of what EFT could use, too."""
    contested = set(for_eft)
    only_ift = [key for key in for_ift if key not in contested]
    both = [key for key in for_ift if key in contested]
    others = len(for_eft) - len(both)
    return only_ift + both[: _ift_share(len(both), want_ift - len(only_ift), want_eft - others, bool(others))]


def _unique(turns: Iterable[FirstTurn], counts: Counter[str]) -> dict[str, FirstTurn]:
    """One first turn per instruction: the one with most ranked replies, then by id, in any order of the files."""
    unique: dict[str, FirstTurn] = {}
    for turn in turns:
        key = same_text(turn.text)
        if key in unique:
            counts["instruction_duplicate"] += 1
        unique[key] = min(
            unique.get(key, turn), turn, key=lambda t: (-sum(r.rank is not None for r in t.replies), t.id)
        )
    return {instruction_id(turn.text): turn for turn in unique.values()}


def _best(turn: FirstTurn) -> SftExample | None:
    if turn.replies and turn.replies[0].rank == 0:
        return _ift_example(turn)
    return None


def _ift_example(turn: FirstTurn) -> SftExample:
    best = turn.replies[0]
    return SftExample(content_id("ift", turn.text, best.text), turn.text, best.text, "ift", best.id)


def _eval_prompt(text: str) -> Prompt:
    return Prompt(content_id("prompt", text), text, "eval")


def apart_from(turns: Sequence[FirstTurn], held_out: HeldOut, counts: Counter[str]) -> list[FirstTurn]:
    """The turns that are no held-out instruction and not near to one, each without later turns that are; counted by reason."""
    reasons = held_out.reasons([turn.text for turn in turns])
    counts.update(f"instruction_{reason}" for reason in reasons if reason)
    left = [turn for turn, reason in zip(turns, reasons, strict=True) if not reason]
    of_later = iter(held_out.reasons([later.text for turn in left for later in turn.later]))
    found = []
    for turn in left:
        why = [(later, next(of_later)) for later in turn.later]
        counts.update(f"later_{reason}" for _, reason in why if reason)
        found.append(replace(turn, later=tuple(later for later, reason in why if not reason)) if why else turn)
    return found


def _later_replies(turn: FirstTurn, source: str, counts: Counter[str]) -> list[RankedReply]:
    """EFT material of the later turns of a conversation."""
    return [
        reply
        for later in turn.later
        for reply in _eft_replies(instruction_id(later.conversation), later.conversation, later.replies, source, counts)
    ]


def _eft_replies(key: str, text: str, replies: Sequence[Reply], source: str, counts: Counter[str]) -> list[RankedReply]:
    """An instruction's replies as EFT material; empty when it has none."""
    ranked = [(reply, reply.rank) for reply in replies if reply.rank is not None]
    if source == "external":
        judged = [(reply, rank) for reply, rank in ranked if reply.judgement]
        counts["reply_without_judgement"] += len(ranked) - len(judged) if judged else 0
        ranked = judged
    elif len(ranked) < 2:
        return []  # a single reply is not a ranking
    return [
        RankedReply(content_id("ranked", key, reply.id), key, text, reply.text, rank, reply.judgement)
        for reply, rank in ranked
    ]


def _take_until(keys: Sequence[str], sizes: dict[str, int], wanted: int) -> list[str]:
    """The first keys whose sizes add up to at least `wanted` replies."""
    taken: list[str] = []
    total = 0
    for key in keys:
        if total >= wanted:
            break
        taken.append(key)
        total += sizes[key]
    return taken


def _ift_share(total: int, want_ift: float, want_eft: float, eft_has_others: bool) -> int:
    """How many of the `total` instructions that both can use go to IFT. A want may be infinite (all) or negative (none).

    IFT comes first: it gets what it wants where there is so much, if nothing is left for EFT. Where there is less, EFT gets
    an eighth at most if it has no others, since no run goes on without any. An infinite want of IFT leaves EFT what it
    wants, at most half.
    """
    want_ift, want_eft = max(want_ift, 0.0), max(want_eft, 0.0)
    if want_ift <= total or not want_eft:
        return int(min(want_ift, total))
    if math.isinf(want_ift):
        return total - (total // 2 if math.isinf(want_eft) else min(math.ceil(want_eft), total // 2))
    return total if eft_has_others or total < 2 else total - math.ceil(min(want_eft, total * EFT_SHARE))
