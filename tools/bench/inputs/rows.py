"""Files of rows: a good file, the same with one bad row, and whether the bad row was refused, or left out and counted."""

import gzip
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tools.bench.inputs.case import COUNTED, guard, write

HALF = "\ud800"
VALUES: dict[str, Any] = {
    "null": None,
    "number": 3,
    "half": 0.5,
    "negative": -1,
    "nan": math.nan,
    "inf": math.inf,
    "minus inf": -math.inf,
    "true": True,
    "list": [],
    "list of text": ["x"],
    "mapping": {},
    "empty": "",
    "blank": " \n",
    "half a pair": HALF,
    "huge": 10**400,
    "text": "Unsinn",
}
ABSENT = object()
RAW = {
    "no JSON": "{",
    "word": "nonsense",
    "open text": '{"a": "b',
    "comma": '{"a": 1,}',
    "quotes": "{'a': 1}",
    "5,000 digits": '{"a": ' + "1" * 5000 + "}",
    "100,000 brackets": "[" * 100_000,
    "5,000 objects": '{"a":' * 5000 + "1" + "}" * 5000,
    "list": "[1]",
    "number": "7",
    "text": '"a"',
    "null": "null",
    "true": "true",
    "two objects": "{} {}",
    "half a pair": '{"prompt": "\\ud83d", "chosen": "a", "rejected": "b"}',
    "empty object": "{}",
    "NaN alone": "NaN",
    "control character": '{"a": "\x01"}',
    "key of a list": '{"a": [1, {"b": NaN}]}',
}
LEFT_OUT = ("tree_", "reply_", "dropped_", "chat_", "file_prompts_", "system_message", "duplicate")
Reader = Callable[[Path, Counter[str]], object]


def bytes_of(name: str, good: str) -> tuple[str, bytes]:
    """(ending to add, content) of a file that is broken as a whole."""
    data = good.encode()
    packed = gzip.compress(data * 50)
    made = {
        "Latin-1": ("", good.replace("good", "g\xfct").encode("latin-1") + b"\xff\n"),
        "UTF-16": ("", good.encode("utf-16")),
        "UTF-32": ("", good.encode("utf-32")),
        "NUL": ("", data + b"\0\n"),
        "binary": ("", bytes(range(256)) * 4),
        "empty": ("", b""),
        "blank lines": ("", b"\n \n\n"),
        "gz cut": (".gz", packed[: len(packed) // 2]),
        "gz damaged": (".gz", packed[:20] + b"\xff" * 10 + packed[30:]),
        "gz not packed": (".gz", data),
        "gz empty": (".gz", b""),
        "gz wrong end": (".gz", packed[:-8] + b"\0" * 8),
        "packed without .gz": ("", packed),
    }
    return made[name]


WHOLE = (
    "Latin-1",
    "UTF-16",
    "UTF-32",
    "NUL",
    "binary",
    "empty",
    "blank lines",
    "gz cut",
    "gz damaged",
    "gz not packed",
    "gz empty",
    "gz wrong end",
    "packed without .gz",
)


def mutated(row: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy of `row` with `value` at `path`; ABSENT removes it."""
    made = json.loads(json.dumps(row))
    place = made
    for step in path[:-1]:
        place = place[step]
    if value is ABSENT:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return made


def mutations(row: dict[str, Any], paths: tuple[tuple[Any, ...], ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, row) of every value in the place of every field."""
    for path in paths:
        name = ".".join(map(str, path))
        yield f"{name} absent", mutated(row, path, ABSENT)
        held = row
        for step in path:
            held = held[step]
        for kind, value in VALUES.items():
            if not _plausible(held, value):
                yield f"{name}: {kind}", mutated(row, path, value)


def _plausible(held: Any, value: Any) -> bool:
    """Whether a value is as good as the one that is held."""
    if isinstance(held, str):
        return isinstance(value, str) and bool(value.strip()) and value != HALF
    if isinstance(held, bool):
        return isinstance(value, bool)
    if isinstance(held, (int, float)):
        return type(value) in (int, float) and abs(value) < 10 and (isinstance(held, float) or value == 3)
    return False


def line(row: Any) -> str:
    """A row as JSON; a long whole number as it stands."""
    return json.dumps(row) + "\n"


def left_out(counts: Counter[str]) -> int:
    return sum(number for name, number in counts.items() if name.startswith(LEFT_OUT))


def read_both(name: str, good: str, bad: str, read: Reader, mark: str = "") -> int:
    """Reads the good rows, then these with the bad row behind them. `read` returns what is used of a file: it has to be the
    same, or with a `mark` to hold no such text (only a part of the row is bad)."""

    def both() -> None:
        before, after = Counter[str](), Counter[str]()
        used = read(write(f"good/{name}", good), before)
        found = read(write(f"bad/{name}", good + bad), after)
        unused = mark not in repr(found) if mark else found == used
        if unused and left_out(after) > left_out(before):
            print(COUNTED, dict(after - before))

    return guard(both)


def read_whole(name: str, kind: str, good: str, read: Reader) -> int:
    """Reads a file that is broken as a whole."""
    ending, data = bytes_of(kind, good)
    return guard(lambda: print(read(write(name + ending, data), Counter())))
