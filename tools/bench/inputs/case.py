"""A bad input, what is done with it, and what has to come of it."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REFUSED = "refused"  # exit code 2 with a message, or the rows left out and counted
ACCEPTED = "accepted"  # exit code 0: the same input without its fault
ANSWERED = "answered"  # 0 or 2: what is shown is for people alone, and a part of it may be missing
COUNTED = "left out and counted:"  # how an action says that it went on without the bad rows

Action = Callable[[], int]


@dataclass(frozen=True)
class Case:
    """`run` makes its files in the working directory, which is new and empty, and returns the exit code."""

    group: str
    name: str
    run: Action
    expect: str = REFUSED


def command(*words: str) -> int:
    """`nemo-srlm WORDS`."""
    from nemo_srlm.cli import main

    return main(words)


def settings(*words: str) -> int:
    """Whether settings are taken: `nemo-srlm config WORDS`."""
    return command("config", *words)


def plan(*words: str) -> int:
    """What a submission looks at before its jobs queue: `nemo-srlm plan WORDS`."""
    return command("plan", "run.root=runs", *words)


def guard(work: Callable[[], None]) -> int:
    """A step of the package that has no command of its own, with the end that every command has."""
    from nemo_srlm.core.exit_codes import guarded

    def run() -> int:
        work()
        return 0

    return guarded(run, "interrupted")


def write(name: str, data: bytes | str) -> Path:
    """A file of the working directory."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    return path


def lines(rows: list[Any]) -> str:
    """JSONL, with NaN and infinity as Python and pandas write them."""
    return "".join(json.dumps(row) + "\n" for row in rows)


@contextmanager
def environment(**changes: str) -> Iterator[None]:
    old = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(old)
