"""Prompts of the tiny world: six families, four phrasings each, and three disjoint splits by a hash of the combination
and the world's seed.

A `Question` is independent of its wording: `render` gives the text, `parse` is the inverse. No answers here.
"""

import functools
import hashlib
import random
import re
from dataclasses import dataclass
from itertools import permutations

from nemo_srlm.tiny_world.words import (
    AMOUNTS,
    ANIMALS,
    ATTRIBUTES,
    CATEGORIES,
    CATEGORY_OF,
    COUNTED,
    FACTS,
    LISTED,
    NOUNS,
    NUMBERS,
    PREFIXES,
    STEPS,
)

FAMILIES: tuple[str, ...] = ("list", "reverse", "count", "filter", "fact", "who")
PHRASINGS: dict[str, tuple[str, ...]] = {
    "list": (
        "Name {0} {1} and {2} {3}.",
        "Can you give me {0} {1} and {2} {3}?",
        "What are the first {0} {1} and the first {2} {3}?",
        "I need a list of {0} {1} and then {2} {3}.",
    ),
    "reverse": (
        "Reverse these words: {0}.",
        "Write the words {0} backwards.",
        "What is {0} in reverse order?",
        "Turn this list around for me: {0}.",
    ),
    "count": (
        "Count {0} numbers {1} from {2}.",
        "Which {0} numbers go {1} from {2}?",
        "Write down {0} numbers {1} from {2}.",
        "Start at {2} and count {1} until you have {0} numbers.",
    ),
    "filter": (
        "Which of these are {0}: {1}?",
        "Pick the {0} from {1}.",
        "Find all the {0} in this list: {1}.",
        "Here are some words: {1}. Keep only the {0}.",
    ),
    "fact": (
        "What is the {1} of the {0}?",
        "Tell me the {1} of a {0}.",
        "I want to know the {1} that the {0} has.",
        "For the {0}, give the {1}.",
    ),
    "who": (
        "Which animal has the {0} {1}: {2}?",
        "Name the one with the {0} {1} among {2}.",
        "Of {2}, who has the {0} {1}?",
        "I need the animal of the {0} {1}: {2}.",
    ),
}
_ARGUMENT = {"list": (r"(\w+)",) * 4, "reverse": (r"([\w, ]+)",), "count": (r"(\w+)", r"(\w+)", r"(\d+)"),
             "filter": (r"(\w+)", r"([\w, ]+)"), "fact": (r"(\w+)", r"([\w ]+)"),
             "who": (r"(\w+)", r"(\w+)", r"([\w, ]+)")}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """What is asked. `args` by family: list (n1, c1, n2, c2); reverse (words...); count (amount, up | down, first number);
    filter (category, words...: one is of it); fact (animal, attributes...); who (attribute, value, animals...: one has it)."""

    family: str
    args: tuple[str, ...]

    @property
    def combination(self) -> str:
        """The key of the split. The order of the words to choose from is ignored; that of a fact's attributes is not: what
        is held out of facts is the answer in this order, for each single value stands in the web text."""
        asked = {"filter": 1, "who": 2}.get(self.family, len(self.args))
        return " ".join((self.family, *self.args[:asked], *sorted(self.args[asked:])))


@dataclass(frozen=True)
class Split:
    """One of the three parts of all combinations: train (80 of 100), dev (10), test (10). Each world seed has its own, so that
    a result on several seeds does not rest on the same few facts."""

    seed: int
    name: str

    def __contains__(self, question: Question) -> bool:
        return split_of(question, self.seed) == self.name


def _hash(combination: str, seed: int) -> int:
    return int(hashlib.sha256(f"{seed} {combination}".encode()).hexdigest()[:8], 16)


def _few() -> list[list[Question]]:
    """All questions of the families that have few."""
    return [
        [Question("list", (m, a, n, b)) for a, b in permutations(CATEGORIES, 2) for m in LISTED for n in LISTED],
        [Question("count", (n, s, str(a))) for n in COUNTED for s in STEPS for a in NUMBERS if _counts(n, s, a)],
        [Question("fact", (a, *names)) for a in ANIMALS for n in (1, 2) for names in permutations(ATTRIBUTES, n)],
    ]


@functools.cache
def _buckets(seed: int) -> dict[str, int]:
    """Combination -> 0..99 for the families with few combinations: by their rank in hash order, so that the shares of the
    splits are exact (72 facts, hashed independently, would be split unevenly)."""
    return {
        combination: 100 * i // len(questions)
        for questions in _few()
        for i, combination in enumerate(sorted((q.combination for q in questions), key=lambda c: _hash(c, seed)))
    }


def split_of(question: Question, seed: int) -> str:
    """train (80 of 100) | dev (10) | test (10): by a hash of the combination and the world's seed."""
    known = _buckets(seed)
    combination = question.combination
    bucket = known[combination] if combination in known else _hash(combination, seed) % 100
    return "train" if bucket < 80 else "dev" if bucket < 90 else "test"


def draw(rng: random.Random, split: Split, family: str | None = None) -> Question:
    """A random question of a split."""
    chosen = family or rng.choice(FAMILIES)
    while True:
        question = _draw(rng, chosen)
        if question in split:
            return question


def _draw(rng: random.Random, family: str) -> Question:
    if family == "list":
        first, second = rng.sample(list(CATEGORIES), 2)
        return Question(family, (rng.choice(LISTED), first, rng.choice(LISTED), second))
    if family == "reverse":
        return Question(family, tuple(rng.sample(NOUNS, 2)))
    if family == "count":
        while True:
            amount, step, first_number = rng.choice(COUNTED), rng.choice(list(STEPS)), rng.choice(NUMBERS)
            if _counts(amount, step, first_number):
                return Question(family, (amount, step, str(first_number)))
    if family == "filter":
        category = rng.choice(list(CATEGORIES))
        others = [word for word in NOUNS if CATEGORY_OF[word] != category]
        words = [rng.choice(CATEGORIES[category]), *rng.sample(others, rng.choice((1, 2)))]
        rng.shuffle(words)
        return Question(family, (category, *words))
    if family == "fact":
        return Question(family, (rng.choice(ANIMALS), *rng.sample(list(ATTRIBUTES), rng.choice((1, 2)))))
    animal, name = rng.choice(ANIMALS), rng.choice(list(ATTRIBUTES))
    value = FACTS[animal][name]
    others = [other for other in ANIMALS if FACTS[other][name] != value]
    words = [animal, *rng.sample(others, rng.choice((1, 2)))]
    rng.shuffle(words)
    return Question(family, (name, value, *words))


def _counts(amount: str, step: str, first: int) -> bool:
    """Whether all numbers of a count are numbers of this world."""
    return {first, first + STEPS[step] * (AMOUNTS[amount] - 1)} <= set(NUMBERS)


def render(question: Question, phrasing: int, prefix: str = "") -> str:
    """The prompt's text in one of the four phrasings, with an optional prefix."""
    args = question.args
    if question.family == "reverse":
        args = (", ".join(args),)
    elif question.family == "filter":
        args = (args[0], ", ".join(args[1:]))
    elif question.family == "who":
        args = (*args[:2], ", ".join(args[2:]))
    elif question.family == "fact":
        args = (args[0], " and ".join(args[1:]))
    text = PHRASINGS[question.family][phrasing].format(*args)
    return f"{prefix} {text}" if prefix else text


def wording(rng: random.Random, question: Question) -> str:
    """A random phrasing; half of the prompts have a prefix."""
    return render(question, rng.randrange(4), rng.choice(PREFIXES) if rng.random() < 0.5 else "")


def _patterns() -> list[tuple[str, tuple[int, ...], re.Pattern[str]]]:
    found = []
    for family, texts in PHRASINGS.items():
        for text in texts:
            order = tuple(int(n) for n in re.findall(r"\{(\d)\}", text))
            pattern = re.escape(text)
            for n, argument in enumerate(_ARGUMENT[family]):
                pattern = pattern.replace(re.escape(f"{{{n}}}"), argument)
            found.append((family, order, re.compile(pattern)))
    return found


_PATTERNS = _patterns()


def parse(text: str) -> Question | None:
    """The question behind a prompt's text, after any number of prefixes; None where it is no well-formed question of this
    world."""
    while prefix := next((prefix for prefix in PREFIXES if text.startswith(prefix + " ")), ""):
        text = text.removeprefix(prefix + " ")
    for family, order, pattern in _PATTERNS:
        if match := pattern.fullmatch(text):
            values = [value for _, value in sorted(zip(order, match.groups(), strict=True))]
            question = _checked(family, values)
            if question is not None:
                return question
    return None


def _checked(family: str, values: list[str]) -> Question | None:
    """The question where its arguments are valid, else None: a model's malformed prompt has no right answer."""
    if family == "list":
        n1, c1, n2, c2 = values
        ok = {n1, n2} <= set(LISTED) and c1 in CATEGORIES and c2 in CATEGORIES and c1 != c2
        return Question(family, tuple(values)) if ok else None
    if family == "reverse":
        words = values[0].split(", ")
        ok = 2 <= len(words) <= 4 and set(words) <= set(NOUNS) and len(set(words)) == len(words)
        return Question(family, tuple(words)) if ok else None
    if family == "count":
        amount, step, first = values
        ok = amount in COUNTED and step in STEPS and _counts(amount, step, int(first))
        return Question(family, (amount, step, str(int(first)))) if ok else None  # "05" is no other question
    if family == "filter":
        words = values[1].split(", ")
        ok = values[0] in CATEGORIES and set(words) <= set(NOUNS) and len(set(words)) == len(words)
        matching = sum(CATEGORY_OF[word] == values[0] for word in words) if ok else 0
        return Question(family, (values[0], *words)) if 1 == matching < len(words) <= 4 else None
    if family == "fact":
        names = values[1].split(" and ")
        ok = values[0] in ANIMALS and set(names) <= set(ATTRIBUTES) and len(set(names)) == len(names) <= 2
        return Question(family, (values[0], *names)) if ok else None
    words = values[2].split(", ")
    ok = values[0] in ATTRIBUTES and values[1] in ATTRIBUTES[values[0]] and set(words) <= set(ANIMALS)
    ok = ok and 2 <= len(set(words)) == len(words) <= 3
    matching = sum(FACTS[word][values[0]] == values[1] for word in words) if ok else 0
    return Question(family, (*values[:2], *words)) if matching == 1 else None


def is_held_out(text: str, seed: int) -> bool:
    """Whether a prompt asks a held-out question of the world of that seed: it must not be generated for training."""
    question = parse(text)
    return question is not None and split_of(question, seed) != "train"
