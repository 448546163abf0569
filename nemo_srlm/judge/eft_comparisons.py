"""EFT examples that compare: two replies to one instruction, or two judgements of one reply. Pure functions.

For judges that compare (judge.shape=pairwise, judge_training.method=meta): a model tuned on scores alone answers a request to
compare with a score. They are made of the judgements that EFT keeps. The target is what the judge would write about
each, and then the verdict: of two replies that of the ranks, of two judgements the one that was written about this reply.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

from nemo_srlm.core.records import SftExample, content_id
from nemo_srlm.judge.eft import JudgedReply
from nemo_srlm.judge.scores import judge_input

Fill = Callable[[str, str, str], str]  # instruction, first, second -> the request to compare
_VERDICT = re.compile(r"\nBetter: [AB]\Z")


def compares(example: SftExample) -> bool:
    """Whether an EFT example is one of these: its target ends in a verdict, and not in a score."""
    return _VERDICT.search(example.response) is not None


def of_replies(items: Iterable[JudgedReply], fill: Fill, number: int) -> list[SftExample]:
    """At most `number` comparisons of two replies to one instruction whose scores differ in the order of their ranks."""
    found = [
        (better, worse)
        for group in _by_instruction(items)
        for better, worse in combinations(sorted(group, key=lambda item: item.reply.rank), 2)
        if better.reply.rank < worse.reply.rank and _score(better) > _score(worse)
    ]
    return [_of_two_replies(better, worse, fill) for better, worse in _some(found, number)]


def of_judgements(items: Iterable[JudgedReply], template: str, fill: Fill, number: int) -> list[SftExample]:
    """At most `number` comparisons of a reply's judgement with one of another reply, of another score, to the same instruction.

    `template`: the judge's, which says what is judged. A reply is what is judged in one of them at most.
    """
    found = []
    for group in _by_instruction(items):
        for item in group:
            others = [other for other in group if _score(other) != _score(item) and _text(other) != _text(item)]
            if others:
                found.append((item, min(others, key=lambda other: _draw(item, other))))
    return [_of_two_judgements(item, other, template, fill) for item, other in _some(found, number)]


def _of_two_replies(better: JudgedReply, worse: JudgedReply, fill: Fill) -> SftExample:
    place, (first, second) = _placed(better, worse)
    prompt = fill(better.reply.instruction, first.reply.response, second.reply.response)
    return _example(prompt, f"{_text(first)}\n{_text(second)}\nBetter: {place}", better, worse)


def _of_two_judgements(item: JudgedReply, other: JudgedReply, template: str, fill: Fill) -> SftExample:
    place, (first, second) = _placed(item, other)
    asked = judge_input(template, item.reply.instruction, item.reply.response)
    return _example(fill(asked, _text(first), _text(second)), f"{_text(item)}\nBetter: {place}", item, other)


def _example(prompt: str, target: str, better: JudgedReply, worse: JudgedReply) -> SftExample:
    return SftExample(content_id("eft", prompt, target), prompt, target, "eft", f"{better.reply.id} {worse.reply.id}")


def _placed(better: JudgedReply, worse: JudgedReply) -> tuple[str, tuple[JudgedReply, JudgedReply]]:
    """Which place a hash gives to the better one, and both in their order."""
    return ("B", (worse, better)) if _draw(better, worse)[-1] % 2 else ("A", (better, worse))


def _by_instruction(items: Iterable[JudgedReply]) -> Iterable[list[JudgedReply]]:
    """Of equal replies to one instruction the first: two of one text have nothing to compare."""
    groups: dict[str, dict[str, JudgedReply]] = {}
    for item in items:
        groups.setdefault(item.reply.instruction_id, {}).setdefault(item.reply.response, item)
    return [list(group.values()) for group in groups.values()]


def _some(found: Sequence[tuple[JudgedReply, JudgedReply]], number: int) -> list[tuple[JudgedReply, JudgedReply]]:
    """`number` of them, chosen by a hash, in their order."""
    chosen = sorted(range(len(found)), key=lambda i: _draw(*found[i]))[:number]
    return [found[i] for i in sorted(chosen)]


def _draw(one: JudgedReply, other: JudgedReply) -> bytes:
    return hashlib.sha256(f"compare {one.reply.id} {other.reply.id}".encode()).digest()


def _score(item: JudgedReply) -> float:
    assert item.score is not None, "EFT keeps no judgement without a score"
    return item.score


def _text(item: JudgedReply) -> str:
    return item.text.strip()
