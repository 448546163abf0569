"""Responses of a chosen quality, and reviewers' comments on them.

Reviewers use the oracle with noise: they simulate commenters on the web and Open Assistant's human raters.
"""

import random
from dataclasses import dataclass

from nemo_srlm.tiny_world import oracle
from nemo_srlm.tiny_world.questions import FAMILIES, Question, Split, draw
from nemo_srlm.tiny_world.words import ATTRIBUTES, CATEGORY_OF, NOUNS, NUMBERS

# a common beginning, so that small talk does not disappear by sampling at temperature 0.7 alone
SMALL_TALK = tuple(
    "I hope that " + rest for rest in ("this helps.", "this helps you.", "you like it.", "you have a nice day.")
)
VERDICTS = (
    "Off topic.",
    "Mostly wrong.",
    "Half right.",
    "Right but too short.",
    "Right but too much talk.",
    "Perfect.",
)
REVIEW_REQUEST = "Rate this answer."
RUBRIC = "Give one point each if it is relevant, half right, all right, a full sentence, and nothing more."


@dataclass(frozen=True)
class Quality:
    """A mixture of responses: shares of off topic, right, one error (the rest is mostly wrong), framed, small talk."""

    off_topic: float
    right: float
    one_error: float
    framed: float
    small_talk: float


WEB = Quality(off_topic=0.05, right=0.65, one_error=0.20, framed=0.5, small_talk=0.4)


def ift_quality(right: float, one_error: float) -> Quality:
    """Of the human answers for instruction fine-tuning: on topic, 70% framed, 30% with small talk.

    With more to gain in style, pairs whose rejected reply has small talk teach to stop early, inside the answer.
    """
    return Quality(off_topic=0.0, right=right, one_error=one_error, framed=0.7, small_talk=0.3)


def respond(rng: random.Random, question: Question, quality: Quality, split: Split) -> str:
    """A response of that quality. Off-topic ones answer another question of the same split."""
    if rng.random() < quality.off_topic:
        other = draw(rng, split, rng.choice([f for f in FAMILIES if f != question.family]))
        return _write(rng, other, oracle.answer(other), quality.framed, quality.small_talk)
    luck = rng.random()
    if luck < quality.right:
        items = oracle.answer(question)
    else:
        items = with_errors(rng, question, 1 if luck < quality.right + quality.one_error else 99)
    return _write(rng, question, items, quality.framed, quality.small_talk)


def respond_at(rng: random.Random, question: Question, level: int, split: Split) -> str | None:
    """A response that the oracle scores `level`; None where there is none (a single item is never half right)."""
    for _ in range(20):
        if level == 0:
            text = respond(rng, question, Quality(1.0, 0, 0, 0.5, 0.5), split)
        elif level <= 2:
            errors = 1 if level == 2 else rng.choice((1, 99))
            text = _write(rng, question, with_errors(rng, question, errors), 0.5, 0.5)
        else:
            framed = 1.0 if level >= 4 else 0.0
            text = _write(rng, question, oracle.answer(question), framed, {3: 0.5, 4: 1.0, 5: 0.0}[level])
        found = oracle.score(question, text)
        if found is not None and found.level == level:
            return text
    return None


def _write(rng: random.Random, question: Question, items: tuple[str, ...], framed: float, small_talk: float) -> str:
    sentence = oracle.frame(question, items) if rng.random() < framed else ", ".join(items) + "."
    return f"{sentence} {rng.choice(SMALL_TALK)}" if rng.random() < small_talk else sentence


def with_errors(rng: random.Random, question: Question, errors: int) -> tuple[str, ...]:
    """The right answer with `errors` items (at most all) made wrong: replaced, two swapped, one dropped or added."""
    gold = oracle.answer(question)
    items = list(gold)
    if errors == 1 and question.family not in ("fact", "who"):
        kind = rng.random()
        if kind < 0.2 and len(items) > 2:
            del items[rng.randrange(len(items))]
            return tuple(items)
        if kind < 0.4 and len(items) > 2 and question.family in ("list", "reverse"):
            i = rng.randrange(len(items) - 1)
            items[i], items[i + 1] = items[i + 1], items[i]
            return tuple(items)
        if kind < 0.5:
            extra = [item for item in _confusable(question, 0) if item not in items]
            if extra:
                items.insert(rng.randrange(len(items) + 1), rng.choice(extra))
                return tuple(items)
    for i in rng.sample(range(len(items)), min(errors, len(items))):
        choices = [item for item in _confusable(question, i) if item not in items and item != gold[i]]
        if choices:
            items[i] = rng.choice(choices)
    return tuple(items) if tuple(items) != gold else (*reversed(items), rng.choice(NOUNS))


def _confusable(question: Question, i: int) -> list[str]:
    """Wrong items of the kind that was asked for, at position i of the answer."""
    args = question.args
    if question.family == "list":
        category = CATEGORY_OF[oracle.answer(question)[i]]
        return [word for word in NOUNS if CATEGORY_OF[word] == category]
    if question.family == "reverse":
        return [word for word in NOUNS if word not in args] if len(args) == 2 else [*args, *NOUNS[::7]]
    if question.family == "count":
        return [str(n) for n in NUMBERS]
    if question.family == "filter":
        return [word for word in args[1:] if CATEGORY_OF[word] != args[0]]
    if question.family == "fact":
        return list(ATTRIBUTES[args[1 + i]])
    return [word for word in args[2:] if word != oracle.answer(question)[0]]


def review(rng: random.Random, question: Question, response: str, noise: float) -> tuple[str, int]:
    """A reviewer's comment and level. The comment states the right answer and the response's, then a verdict.

    Each item is marked yes, no or missing: a model of this size does not learn to compare two lists from the verdict alone.
    With probability `noise` the level is off by one.
    """
    found = oracle.score(question, response)
    assert found is not None
    level = found.level
    if rng.random() < noise:
        level = min(5, max(0, level + rng.choice((-1, 1))))
    items, _ = oracle.read_items(question, response.partition(".")[0] + ".")
    said = ", ".join(_marked(question, items)) if found.level > 0 else "something else"
    return f"It should be {', '.join(oracle.answer(question))}. You said {said}. {VERDICTS[level]}", level


def _marked(question: Question, items: tuple[str, ...]) -> list[str]:
    """The items with yes or no, then those that are missing."""
    gold = oracle.answer(question)
    if question.family == "filter":  # in any order
        right = [item in gold and item not in items[:i] for i, item in enumerate(items)]
        missing = [item for item in gold if item not in items]
    else:
        right = [i < len(gold) and item == gold[i] for i, item in enumerate(items)]
        missing = list(gold[len(items) :])
    return [f"{item} {'yes' if ok else 'no'}" for item, ok in zip(items, right, strict=True)] + [
        f"{item} missing" for item in missing
    ]


# --- comparisons


@dataclass(frozen=True)
class Compared:
    """Two replies to a question, or two ratings of the reply `rated`, and a reviewer's verdict on them."""

    rated: str  # "" where replies are compared
    first: str
    second: str
    verdict: str


def compare(rng: random.Random, question: Question, split: Split) -> Compared:
    """Two replies of different levels, or a right rating of a reply and one that is off by one; in any order."""
    better, worse = _leveled(rng, question, split), _leveled(rng, question, split)
    while better[1] == worse[1]:
        worse = _leveled(rng, question, split)
    if better[1] < worse[1]:
        better, worse = worse, better
    rated, verdicts = "", [VERDICTS[better[1]], VERDICTS[worse[1]]]
    if rng.random() < 0.5:
        rated, level = rng.choice((better, worse))
        better, worse = _rating(rng, question, rated, 0.0), _rating(rng, question, rated, 1.0)
        while worse[1] == level:  # below 0 and above 5 there is no level to be off by
            worse = _rating(rng, question, rated, 1.0)
        verdicts = [VERDICTS[level]]
    found = [better[0], worse[0]]
    if b_is_better := rng.random() < 0.5:
        found, verdicts = found[::-1], verdicts[::-1]
    answer, place = ", ".join(oracle.answer(question)), "B" if b_is_better else "A"
    return Compared(rated, found[0], found[1], f"It should be {answer}. {' '.join(verdicts)} Better: {place}")


def _leveled(rng: random.Random, question: Question, split: Split) -> tuple[str, int]:
    """A reply and its level."""
    response = respond(rng, question, WEB, split)
    found = oracle.score(question, response)
    assert found is not None
    return response, found.level


def _rating(rng: random.Random, question: Question, response: str, noise: float) -> tuple[str, int]:
    """A judgement of a reply in the form of the seed data, and its score."""
    comment, level = review(rng, question, response, noise)
    return f"{comment} Score: {level}", level
