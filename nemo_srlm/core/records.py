"""The records that stages exchange: frozen, content-addressed, one JSON line each.

An id is a hash of the record's content or origin, so it is the same on every machine, for any number of shards and
after every restart. `from_json` refuses unknown and missing fields.
"""

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Self

import msgspec

from nemo_srlm.config.generation import MAX_DRAWS
from nemo_srlm.errors import DataError


def content_id(*parts: object) -> str:
    """16 hex digits of SHA-256 over the canonical JSON of `parts`: texts, whole numbers, None, and lists of them.

    msgspec writes these as json.dumps(ensure_ascii=False, separators=(",", ":")) does, in a quarter of the time.
    """
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]


def item_seed(run_seed: int, *parts: object) -> int:
    """A 31-bit seed from the run's seed and an item's identity: independent of sharding and resume order.

    Seeds are MAX_DRAWS apart, so that the draws of one request may use seed, seed + 1, ... without meeting another item's.
    """
    return (
        int(hashlib.sha256(json.dumps([run_seed, *parts]).encode()).hexdigest()[:8], 16) // (2 * MAX_DRAWS) * MAX_DRAWS
    )


@dataclass(frozen=True)
class Record:
    """Base of all records: JSON in and out."""

    id: str

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any], where: object = "record") -> Self:
        """Raises DataError naming `where` when a field is missing, unknown or of another type."""
        if not isinstance(data, dict):
            raise DataError(where, f"a {type(data).__name__}", f"a {cls.__name__}: an object")
        names, required = _names(cls)  # type: ignore[arg-type]  # mypy: a class is not Hashable
        if not required <= data.keys() <= names:
            for word, wrong in (("unknown", data.keys() - names), ("missing", required - data.keys())):
                if wrong:
                    raise DataError(
                        where, f"{word} field(s) {sorted(wrong)}", f"a {cls.__name__} with {sorted(names)}"
                    )  # fmt: skip
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            raise DataError(where, str(error), f"a {cls.__name__}") from error


@functools.cache
def _names(cls: type[Record]) -> tuple[frozenset[str], frozenset[str]]:
    """(all fields of a kind of record, those without a default)."""
    fields = dataclasses.fields(cls)
    missing = dataclasses.MISSING
    required = (f.name for f in fields if f.default is missing and f.default_factory is missing)
    return frozenset(f.name for f in fields), frozenset(required)


@dataclass(frozen=True)
class SftExample(Record):
    """One (prompt, response) to imitate. `kind` is "ift" or "eft"; an EFT prompt is a filled judge template."""

    prompt: str
    response: str
    kind: str
    source: str = ""  # where it came from: message id of the Open Assistant reply, ...


@dataclass(frozen=True)
class Conversation(Record):
    """A conversation to imitate: its turns' roles (system, user or assistant) and texts, in order."""

    roles: tuple[str, ...]
    texts: tuple[str, ...]
    source: str = ""  # file:line

    def messages(self) -> list[dict[str, str]]:
        """[{"role", "content"}], as chat templates take it."""
        return [{"role": role, "content": text} for role, text in zip(self.roles, self.texts, strict=True)]


@dataclass(frozen=True)
class RankedReply(Record):
    """One human-ranked reply to an instruction (rank 0 is the best). Optional given judgement of its own."""

    instruction_id: str
    instruction: str
    response: str
    rank: int
    given_judgement: str = ""  # justification ending in "Score: k", when the data brings one


@dataclass(frozen=True)
class Prompt(Record):
    """A new instruction. id = content_id("prompt", text)."""

    text: str
    source: str = "generated"  # generated | file | seed | eval
    demonstrations: tuple[str, ...] = ()  # the texts shown, in order


@dataclass(frozen=True)
class Candidate(Record):
    """One sampled response. id = content_id("candidate", prompt_id, index)."""

    prompt_id: str
    index: int
    text: str
    finish_reason: str  # stop | length
    num_tokens: int
    error: str = ""  # why the engine could not produce it; then text is empty


@dataclass(frozen=True)
class Judgement(Record):
    """All draws of the judge on one candidate. id = the candidate's id. A score is None where it did not parse."""

    prompt_id: str
    scores: tuple[float | None, ...]
    texts: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    error: str = ""  # too long, engine error, ...; then there are no draws
    spread: float | None = None  # judge.method=expected: standard deviation of the score's distribution


@dataclass(frozen=True)
class PreferencePair(Record):
    """Best against worst. id = content_id("pair", prompt_id, chosen, rejected).

    Fields after the scores are written only where they are not their defaults, as in most methods.
    """

    prompt_id: str
    prompt: str
    chosen: str
    rejected: str
    chosen_score: float | None = None
    rejected_score: float | None = None
    weight: float = 1.0  # of the pair in the loss
    certainty: float = 1.0  # probability that the preference is this way round

    def to_json(self) -> dict[str, Any]:
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # asdict takes four times as long
        return {k: v for k, v in found.items() if v != 1.0 or k not in ("weight", "certainty")}
