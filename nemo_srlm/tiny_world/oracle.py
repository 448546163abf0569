"""The oracle: the right answer to a question and the score (0..5) of any response.

Additive, each point requires the one before: 1 relevant, 2 at least half right, 3 all right, 4 also the full sentence,
5 also nothing after the first sentence. Used by the generator and by the final evaluation ONLY: nothing inside an
iteration may import it (tests/rules/test_oracle_boundary.py).
"""

import re
from dataclasses import dataclass

from nemo_srlm.tiny_world.questions import Question, parse
from nemo_srlm.tiny_world.words import AMOUNTS, CATEGORIES, CATEGORY_OF, FACTS, STEPS


@dataclass(frozen=True)
class Score:
    """level 0..5; correctness in 0..1; `framed`: the full sentence; `clean`: nothing after the first sentence."""

    level: int
    correctness: float
    framed: bool
    clean: bool


def answer(question: Question) -> tuple[str, ...]:
    """The items of the right answer, in order."""
    args = question.args
    if question.family == "list":
        n1, c1, n2, c2 = args
        return CATEGORIES[c1][: AMOUNTS[n1]] + CATEGORIES[c2][: AMOUNTS[n2]]
    if question.family == "reverse":
        return args[::-1]
    if question.family == "count":
        return tuple(str(int(args[2]) + STEPS[args[1]] * i) for i in range(AMOUNTS[args[0]]))
    if question.family == "filter":
        return tuple(word for word in args[1:] if CATEGORY_OF[word] == args[0])
    if question.family == "fact":
        return tuple(FACTS[args[0]][name] for name in args[1:])
    return tuple(word for word in args[2:] if FACTS[word][args[0]] == args[1])


def frame(question: Question, items: tuple[str, ...]) -> str:
    """The full sentence that gives `items` as the answer."""
    args, joined = question.args, ", ".join(items)
    if question.family == "list":
        return f"Here are {args[0]} {args[1]} and {args[2]} {args[3]}: {joined}."
    if question.family == "reverse":
        return f"In reverse order the words are {joined}."
    if question.family == "count":
        return f"The {args[0]} numbers {args[1]} from {args[2]} are {joined}."
    if question.family == "filter":
        return f"The {args[0]} in the list are {joined}."
    if question.family == "fact":
        # with more or fewer values than asked for (a wrong answer) the sentence states as many as it can
        return (
            f"For the {args[0]}, " + ", ".join(f"the {n} is {v}" for n, v in zip(args[1:], items, strict=False)) + "."
        )
    return f"The animal with the {args[0]} {args[1]} is the {joined}."


def score(prompt: str | Question, response: str) -> Score | None:
    """The oracle's score of a response; None where the prompt is not a question of this world."""
    question = parse(prompt) if isinstance(prompt, str) else prompt
    if question is None:
        return None
    text = response.strip()
    first, dot, rest = text.partition(".")
    items, framed = read_items(question, first + dot)
    c = _correctness(question, items)
    if not _relevant(question, items):
        return Score(0, c, framed, not rest.strip())
    level = 1 if c < 0.5 else 2 if c < 1 else 3
    clean = bool(dot) and not rest.strip()
    if level == 3 and framed:
        level = 5 if clean else 4
    return Score(level, c, framed, clean)


def read_items(question: Question, sentence: str) -> tuple[tuple[str, ...], bool]:
    """The answer's items in a first sentence, and whether the sentence is the full frame of this question."""
    if question.family == "fact" and (values := re.findall(r"the \w+ is (\w+)", sentence)):
        return tuple(values), sentence == frame(question, tuple(values))
    start, _, end = frame(question, ("\0",)).partition("\0")
    if question.family != "fact" and sentence.startswith(start) and sentence.endswith(end):
        body = sentence[len(start) : -len(end)]
        return tuple(body.split(", ")), True
    # otherwise the items are the parts between commas, also of another question's frame (and so wrong)
    body = sentence.removesuffix(".").removeprefix("the ").removeprefix("The ")
    return tuple(part.strip() for part in body.split(",") if part.strip()), False


def _correctness(question: Question, items: tuple[str, ...]) -> float:
    """Position-wise matches over the longer length; filter: Jaccard of the sets."""
    gold = answer(question)
    if question.family == "filter":
        union = set(gold) | set(items)
        # a repeated word counts as one more wrong item
        return len(set(gold) & set(items)) / (len(union) + len(items) - len(set(items)))
    return sum(a == b for a, b in zip(gold, items, strict=False)) / max(len(gold), len(items))


def _relevant(question: Question, items: tuple[str, ...]) -> bool:
    """Whether at least one item is of the kind that was asked for."""
    args = question.args
    if question.family == "list":
        return any(CATEGORY_OF.get(item) in (args[1], args[3]) for item in items)
    if question.family == "reverse":
        return any(item in args for item in items)
    if question.family == "count":
        return any(item.isdigit() for item in items)
    if question.family in ("filter", "who"):
        return any(item in args[1:] for item in items)
    values = {FACTS[animal][name] for animal in FACTS for name in args[1:]}
    return any(item in values for item in items)
