"""Prompts of the tiny world: six families, four phrasings each, and three disjoint splits by a hash of the combination
and the world's seed.

A `Question` is independent of its wording: `render` gives the text, `parse` is the inverse. No answers here.
"""

import functools
import hashlib
import random
import re
from dataclasses import dataclass
from itertools import combinations, permutations

from nemo_srlm.tiny_world.words import AMOUNTS, ANIMALS, ATTRIBUTES, CATEGORIES, CATEGORY_OF, NOUNS, NUMBERS, PREFIXES

FAMILIES: tuple[str, ...] = ("list", "reverse", "count", "filter", "fact", "compare")
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
        "Count from {0} to {1}.",
        "Which numbers go from {0} to {1}?",
        "Write down all numbers from {0} to {1}.",
        "Start at {0} and count until you reach {1}.",
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
    "compare": (
        "Which animal is the biggest: {0}?",
        "Name the biggest of these animals: {0}.",
        "I need the biggest one of {0}.",
        "Of {0}, which is the biggest?",
    ),
}
_ARGUMENT = {"list": (r"(\w+)",) * 4, "reverse": (r"([\w, ]+)",), "count": (r"(\d+)",) * 2,
             "filter": (r"(\w+)", r"([\w, ]+)"), "fact": (r"(\w+)", r"([\w ]+)"), "compare": (r"([\w, ]+)",)}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """What is asked. `args` by family: list (n1, c1, n2, c2); reverse, filter's rest: words; count (a, b);
    filter (category, words...); fact (animal, attributes...); compare (two or three animals)."""

    family: str
    args: tuple[str, ...]

    @property
    def combination(self) -> str:
        """The key of the split. The order of the animals, or of a filter's words, is ignored; that of a fact's attributes is not:
        what is held out of facts is the answer in this order, for each single value stands in the web text."""
        if self.family == "compare":
            return "compare " + " ".join(sorted(self.args))
        if self.family == "filter":
            return f"filter {self.args[0]} " + " ".join(sorted(self.args[1:]))
        return f"{self.family} " + " ".join(self.args)


@dataclass(frozen=True)
class Split:
    """One of the three parts of all combinations: train (80 of 100), dev (10), test (10). Each world seed has its own, so that
    a result on several seeds does not rest on the same few comparisons and facts."""

    seed: int
    name: str

    def __contains__(self, question: Question) -> bool:
        return split_of(question, self.seed) == self.name


def _hash(combination: str, seed: int) -> int:
    return int(hashlib.sha256(f"{seed} {combination}".encode()).hexdigest()[:8], 16)


def _few() -> list[list[Question]]:
    """All questions of the families that have few."""
    return [
        [Question("list", (m, a, n, b)) for a, b in permutations(CATEGORIES, 2) for m in AMOUNTS for n in AMOUNTS],
        [Question("count", (str(a), str(b))) for a in NUMBERS for b in NUMBERS if 2 <= abs(a - b) <= 4],
        [Question("fact", (a, *names)) for a in ANIMALS for n in (1, 2, 3) for names in permutations(ATTRIBUTES, n)],
        *([Question("compare", animals) for animals in combinations(ANIMALS, n)] for n in (2, 3)),
    ]


@functools.cache
def _buckets(seed: int) -> dict[str, int]:
    """Combination -> 0..99 for the families with few combinations: by their rank in hash order, so that the shares of the
    splits are exact (28 comparisons of two animals, hashed independently would be split very unevenly)."""
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
        return Question(family, (rng.choice(list(AMOUNTS)), first, rng.choice(list(AMOUNTS)), second))
    if family == "reverse":
        return Question(family, tuple(rng.sample(NOUNS, rng.choice((2, 3)))))
    if family == "count":
        length = rng.choice((3, 4, 5))
        start = rng.randint(NUMBERS[0], NUMBERS[-1] - length + 1)
        ends = (str(start), str(start + length - 1))
        return Question(family, ends if rng.random() < 0.5 else ends[::-1])
    if family == "filter":
        category = rng.choice(list(CATEGORIES))
        others = [word for word in NOUNS if CATEGORY_OF[word] != category]
        words = rng.sample(CATEGORIES[category], rng.choice((1, 2))) + rng.sample(others, rng.choice((1, 2)))
        rng.shuffle(words)
        return Question(family, (category, *words))
    if family == "fact":
        return Question(family, (rng.choice(ANIMALS), *rng.sample(list(ATTRIBUTES), rng.choice((1, 2, 3)))))
    return Question(family, tuple(rng.sample(ANIMALS, rng.choice((2, 3)))))


def render(question: Question, phrasing: int, prefix: str = "") -> str:
    """The prompt's text in one of the four phrasings, with an optional prefix."""
    args = question.args
    if question.family in ("reverse", "compare"):
        args = (", ".join(args),)
    elif question.family == "filter":
        args = (args[0], ", ".join(args[1:]))
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
        ok = n1 in AMOUNTS and n2 in AMOUNTS and c1 in CATEGORIES and c2 in CATEGORIES and c1 != c2
        return Question(family, tuple(values)) if ok else None
    if family == "reverse":
        words = values[0].split(", ")
        ok = 2 <= len(words) <= 4 and set(words) <= set(NOUNS) and len(set(words)) == len(words)
        return Question(family, tuple(words)) if ok else None
    if family == "count":
        a, b = int(values[0]), int(values[1])
        ok = {a, b} <= set(NUMBERS) and 2 <= abs(a - b) <= 4
        values = [str(a), str(b)]  # of "05", too: another spelling is no other question
        return Question(family, tuple(values)) if ok else None
    if family == "filter":
        words = values[1].split(", ")
        ok = values[0] in CATEGORIES and set(words) <= set(NOUNS) and len(set(words)) == len(words)
        matching = sum(CATEGORY_OF[word] == values[0] for word in words) if ok else 0
        return Question(family, (values[0], *words)) if 1 <= matching < len(words) <= 5 else None
    if family == "fact":
        names = values[1].split(" and ")
        ok = values[0] in ANIMALS and set(names) <= set(ATTRIBUTES) and len(set(names)) == len(names)
        return Question(family, (values[0], *names)) if ok else None
    animals = values[0].split(", ")
    ok = set(animals) <= set(ANIMALS) and 2 <= len(set(animals)) == len(animals) <= 3
    return Question(family, tuple(animals)) if ok else None


def is_held_out(text: str, seed: int) -> bool:
    """Whether a prompt asks a held-out question of the world of that seed: it must not be generated for training."""
    question = parse(text)
    return question is not None and split_of(question, seed) != "train"
