"""How a field of a config section is written: default, help text, allowed values, and whether it enters fingerprints.

    loss: str = choice("sigmoid", "ipo", help="...")        one of these words; the first is the default
    beta: float = number(0.1, "...", above=0)               a finite number in a range
    stages: list[str] = setting([], "...", each=("a", "b"))  anything else; `each`: allowed list items
    memory: str = setting("", "...", pattern="[0-9]*", allowed="digits")  a text that a regular expression must match
    eval: EvalSection = section(EvalSection)                a section inside a section

Every maker also takes
    execution=True  The field says how a run is executed (parallelism, shards, paths). It never enters a fingerprint.
    added=True      The field came after a release. While it has its default, it stays out of fingerprints,
                    so that runs finished before it existed stay valid.

A subclass that only sets another default (`lr: float = 1e-6`) keeps the rule of its base.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
MAX_SEED = 2**31 - 1  # the largest that every random generator takes
MAX_SHARDS = 10_000  # a plan lists every shard, and Slurm limits the size of an array
MAX_PROCESSES = 1024  # that one machine starts
MAX_NUMBER = 2**31 - 1  # of any number that has no bound of its own: what every library below takes


@dataclass(frozen=True)
class Rule:
    """What one field may hold, and how it is recorded."""

    help: str = ""
    execution: bool = False
    added: bool = False
    choices: tuple[str, ...] = ()
    listed: bool = False  # the value is a list: of `choices`, or of numbers
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)  # old word -> word in `choices`
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    filled: bool = False  # an empty text or list is refused
    finite: bool = False  # the value is a float; the type of an int excludes NaN and infinity
    pattern: str = ""  # regular expression that a text, or every text of a list, matches as a whole
    pattern_words: str = ""  # what `pattern` allows, in words
    free: bool = False  # a text for a model or a shell: line breaks and blanks at its ends belong to it

    def allowed(self) -> str:
        """In words, for error messages and --describe. Empty when the type is the only rule."""
        if self.choices:
            return ("a list of " if self.listed else "one of ") + ", ".join(word or '""' for word in self.choices)
        if self.pattern:
            return self.pattern_words
        prefix = "a finite number, " if self.finite else ""
        if self.at_least is not None and self.at_most is not None:
            return f"{prefix}{self.at_least:.15g} to {self.at_most:.15g}"
        prefix = "a list of whole numbers, each " if self.listed else prefix
        bounds = (
            (self.at_least, "{} or more"), (self.above, "more than {}"),
            (self.at_most, "at most {}"), (self.below, "less than {}"),
        )  # fmt: skip
        words = [text.format(f"{bound:.15g}") for bound, text in bounds if bound is not None]
        return prefix + ", ".join(words) if words else "not empty" if self.filled else ""

    def permits(self, value: Any) -> bool:
        """Whether a value of the right type is allowed. NaN and infinity never are, inside lists and dicts too."""
        if isinstance(value, dict):
            return all(self.permits(item) for item in value.values())
        if isinstance(value, (list, tuple)):
            return (bool(value) or not self.filled) and all(item != "" and self.permits(item) for item in value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return (
                -MAX_NUMBER <= value <= MAX_NUMBER  # false for NaN
                and (self.at_least is None or value >= self.at_least) and (self.above is None or value > self.above)
                and (self.at_most is None or value <= self.at_most) and (self.below is None or value < self.below)
            )  # fmt: skip
        if isinstance(value, str):
            return (
                (not self.choices or value in self.choices) and (bool(value) or not self.filled)
                and (not self.pattern or re.fullmatch(self.pattern, value) is not None) and self._is_text(value)
            )  # fmt: skip
        return True

    def _is_text(self, value: str) -> bool:
        """Whether the characters are those of a text: no NUL, no half of a surrogate pair; where it is not `free` (a name or a
        path) no control characters, and no blanks at its ends that no pattern allows."""
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            return False
        return self.free or not (CONTROL.search(value) or (not self.pattern and value != value.strip()))

    def expected(self, value: Any) -> str:
        """What is allowed in the place of `value`, in words for an error message."""
        if isinstance(value, (int, float)) and math.isfinite(value) and abs(value) > MAX_NUMBER:
            words = self.allowed() or "a number"
            return words if self.at_most is not None else f"{words}, at most {MAX_NUMBER}"
        if isinstance(value, str) and not self._is_text(value):
            return self.allowed() or "a text without control characters and without blanks at its ends"
        if isinstance(value, (list, tuple)) and "" in value:
            return self.allowed() or "a list whose texts are not empty"
        return self.allowed() or "a finite number"


def _field(default: Any, rule: Rule) -> Any:
    metadata = {"rule": rule}
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def choice(
    *allowed: str, default: str | None = None, help: str = "", renamed: Mapping[str, str] | None = None,
    execution: bool = False, added: bool = False,
) -> Any:  # fmt: skip
    """One of the words. The first is the default unless `default` names another.

    renamed: {old word: word in `allowed`}. The old word is accepted and converted when a config is loaded.
    Fingerprints record the old word, so that runs finished under it stay valid.
    """
    rule = Rule(help, execution, added, choices=allowed, renamed=renamed or {})
    return _field(allowed[0] if default is None else default, rule)


def number(
    default: float, help: str = "", *, at_least: float | None = None, above: float | None = None,
    at_most: float | None = None, below: float | None = None, execution: bool = False, added: bool = False,
) -> Any:  # fmt: skip
    """A finite int or float within the bounds. `at_least` and `at_most` include the bound."""
    rule = Rule(
        help, execution, added, at_least=at_least, above=above, at_most=at_most, below=below,
        finite=isinstance(default, float),
    )  # fmt: skip
    return _field(default, rule)


def numbers(help: str, *, at_least: float, execution: bool = False, added: bool = False) -> Any:
    """A list of whole numbers, each `at_least` so large; empty by default."""
    return _field([], Rule(help, execution, added, at_least=at_least, listed=True))


def setting(
    default: Any, help: str = "", *, each: tuple[str, ...] = (), filled: bool = False, pattern: str = "", allowed: str = "",
    free: bool = False, execution: bool = False, added: bool = False,
) -> Any:  # fmt: skip
    """A text, switch, list or dict.

    each: the words that a list may hold. filled: it may not be empty (an item of a list never is).
    free: a text for a model or a shell, in which line breaks and blanks at the ends count; other texts have none.
    pattern: the regular expression that the text, or every item of the list, matches as a whole; `allowed` says it in words.
    """
    assert bool(pattern) == bool(allowed), "a pattern is explained in words"
    rule = Rule(
        help, execution, added, choices=each, listed=bool(each), filled=filled, pattern=pattern, pattern_words=allowed,
        free=free,
    )  # fmt: skip
    return _field(default, rule)


def section(make: Callable[[], Any], *, execution: bool = False) -> Any:
    """A nested section. `execution=True` keeps the whole of it out of fingerprints."""
    return field(default_factory=make, metadata={"rule": Rule(execution=execution)})


def rules(kind: type) -> Mapping[str, Rule]:
    """Field name -> rule of a section class, in the order of the fields. A subclass inherits the rules of its bases."""
    found = {f.name: Rule() for f in dataclasses.fields(kind)}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            found |= {f.name: f.metadata["rule"] for f in dataclasses.fields(base) if "rule" in f.metadata}
    return found


def default_of(f: "dataclasses.Field[Any]") -> Any:
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def identity(value: Any) -> Any:
    """A section (or value) as the plain JSON data that enters fingerprints.

    Left out: execution fields, and fields `added` after a release while they have their default.
    A renamed word is recorded as the old one.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own, found = rules(type(value)), {}
        for f in dataclasses.fields(value):
            rule, held = own[f.name], getattr(value, f.name)
            if rule.execution or (rule.added and held == default_of(f)):
                continue
            old_words = {new: old for old, new in rule.renamed.items()}
            found[f.name] = old_words.get(held, held) if isinstance(held, str) else identity(held)
        return found
    if isinstance(value, (list, tuple)):
        return [identity(v) for v in value]
    if isinstance(value, dict):
        return {k: identity(v) for k, v in value.items()}
    return value


def current_words(value: Any) -> Any:
    """The section with every renamed word in its current spelling, as a copy. For configs written before the renaming."""
    own = rules(type(value))
    changed: dict[str, Any] = {}
    for f in dataclasses.fields(value):
        held = getattr(value, f.name)
        if dataclasses.is_dataclass(held):
            changed[f.name] = current_words(held)
        elif isinstance(held, str):
            changed[f.name] = own[f.name].renamed.get(held, held)
    return dataclasses.replace(value, **changed)


@dataclass
class SamplingSection:
    """How text is sampled."""

    temperature: float = number(0.7, "0 = greedy", at_least=0, at_most=100)
    top_p: float = number(0.9, "nucleus sampling: smallest set of tokens with this probability", above=0, at_most=1)
    max_tokens: int = number(1024, "tokens per completion", at_least=1)
