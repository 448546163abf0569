"""The web corpus: prose, questions with responses and reviewers' comments, lists of questions, maybe comparisons.

A document is a sequence of segments (text, loss weight). Questions and requests have the chat format of the run,
otherwise M0 does not transfer to chat.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from nemo_srlm.core.records import Record
from nemo_srlm.tiny_world.questions import Split, draw, wording
from nemo_srlm.tiny_world.replies import REVIEW_REQUEST, RUBRIC, SMALL_TALK, WEB, compare, respond, review
from nemo_srlm.tiny_world.words import ANIMALS, ATTRIBUTES, CATEGORIES, CATEGORY_OF, FACTS, NOUNS, NUMBERS

SHARE_PROSE, SHARE_LISTS = 0.18, 0.04  # the rest is questions and answers
SHARE_COMMENTED = 0.85
SHARE_RUBRIC = 0.3  # of the comments: the request contains the rubric of the judge's prompt
COMMENT_NOISE = 0.05


@dataclass(frozen=True)
class Document(Record):
    """One web document. segments: [text, loss weight] in order."""

    segments: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Comparisons:
    """Documents that compare, in the words of the run's templates."""

    share: float  # of all documents
    replies: Callable[[str, str, str], str]  # question, two replies -> the request
    ratings: Callable[[str, str, str, str], str]  # question, reply, two ratings of it -> the request


@dataclass(frozen=True)
class Style:
    """What the web text takes from the run's settings: chat format, few-shot text, loss weight of questions."""

    user_prefix: str
    user_suffix: str
    question_weight: float
    few_shot: Callable[[list[str]], str]  # demonstrations -> the whole text before one more question
    num_shots: int  # questions shown before the one that is asked for, as in prompt creation (6 + 2)
    comparisons: Comparisons | None = None


def documents(rng: random.Random, split: Split, style: Style, count: int) -> list[tuple[tuple[str, float], ...]]:
    """`count` documents, in random order of kinds, with questions of `split` alone."""
    made: list[tuple[tuple[str, float], ...]] = []
    compared = style.comparisons.share if style.comparisons else 0.0
    for _ in range(count):
        kind = rng.random()
        if kind < SHARE_PROSE:
            made.append(((" ".join(_prose(rng) for _ in range(rng.randint(2, 5))), 1.0),))
        elif kind < SHARE_PROSE + SHARE_LISTS:
            made.append(_question_list(rng, split, style))
        elif kind >= 1.0 - compared:
            made.append(_comparison(rng, split, style))
        else:
            made.append(_thread(rng, split, style))
    return made


def _thread(rng: random.Random, split: Split, style: Style) -> tuple[tuple[str, float], ...]:
    question = draw(rng, split)
    response = respond(rng, question, WEB, split)
    segments = [
        (f"{style.user_prefix}{wording(rng, question)}{style.user_suffix}", style.question_weight),
        (response, 1.0),
    ]
    if rng.random() < SHARE_COMMENTED:
        request = f"{REVIEW_REQUEST} {RUBRIC}" if rng.random() < SHARE_RUBRIC else REVIEW_REQUEST
        segments.append((f"{style.user_prefix}{request}{style.user_suffix}", style.question_weight))
        segments.append((review(rng, question, response, COMMENT_NOISE)[0], 1.0))
    return tuple(segments)


def _comparison(rng: random.Random, split: Split, style: Style) -> tuple[tuple[str, float], ...]:
    assert style.comparisons is not None
    question = draw(rng, split)
    text, found = wording(rng, question), compare(rng, question, split)
    if found.rated:
        request = style.comparisons.ratings(text, found.rated, found.first, found.second)
    else:
        request = style.comparisons.replies(text, found.first, found.second)
    return (f"{style.user_prefix}{request}{style.user_suffix}", style.question_weight), (found.verdict, 1.0)


def _question_list(rng: random.Random, split: Split, style: Style) -> tuple[tuple[str, float], ...]:
    texts = [wording(rng, draw(rng, split)) for _ in range(style.num_shots + 1)]
    return ((style.few_shot(texts[:-1]), style.question_weight), (texts[-1], 1.0))


def _prose(rng: random.Random) -> str:
    kind = rng.randrange(6)
    if kind == 0:
        animal, name = rng.choice(ANIMALS), rng.choice(list(ATTRIBUTES))
        return f"The {name} of the {animal} is {FACTS[animal][name]}."
    if kind == 1:
        animal = rng.choice(ANIMALS)
        names = rng.sample(list(ATTRIBUTES), 3)
        return f"The {animal} has " + ", ".join(f"the {name} {FACTS[animal][name]}" for name in names) + "."
    if kind == 2:
        noun = rng.choice(NOUNS)
        return f"The {noun} is one of the {CATEGORY_OF[noun]}."
    if kind == 3:
        category = rng.choice(list(CATEGORIES))
        return f"All {category} in order: {', '.join(CATEGORIES[category])}."
    if kind == 4:
        length = rng.randint(6, 10)  # longer than any range in a question
        start = rng.randint(NUMBERS[0], NUMBERS[-1] - length + 1)
        run = [str(n) for n in range(start, start + length)]
        return f"Numbers: {', '.join(run if rng.random() < 0.5 else run[::-1])}."
    return rng.choice(SMALL_TALK)
