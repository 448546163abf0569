"""Preference files: pairs for training, ranked replies and conversations; as JSONL and as parquet."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tools.bench.inputs.case import ACCEPTED, Case, guard, write
from tools.bench.inputs.rows import RAW, WHOLE, Reader, line, mutations, read_both, read_whole


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def pairs(path: Path, counts: Counter[str]) -> object:
    from nemo_srlm.data.preference_pairs import read_pairs
    from nemo_srlm.errors import DataError

    found = list(read_pairs([path], counts))
    if not found:
        raise DataError(path, f"not one pair ({dict(counts)})", "rows")
    return found


def ranked(path: Path, counts: Counter[str]) -> object:
    from nemo_srlm.data.ranked_replies import read_ranked

    return read_ranked(path, "en", 0, counts)


def conversations(path: Path, counts: Counter[str]) -> object:
    from nemo_srlm.data.conversations import read_conversations
    from nemo_srlm.errors import DataError

    found = [(c.roles, c.texts) for c in read_conversations([path], counts)]
    if not found:
        raise DataError(path, f"no conversation ({dict(counts)})", "rows")
    return found


PLAIN = {"prompt": "q", "chosen": "good", "rejected": "bad", "chosen_score": 4.0, "rejected_score": 2.0}
CHAT = {"chosen": turns("q", "good"), "rejected": turns("q", "bad")}
LISTED = {"prompt": "q", "responses": ["good", "bad"], "scores": [4.0, 2.0]}
OBJECTS = {"instruction": "q", "completions": [{"text": "good", "rank": 0}, {"text": "bad", "rank": 1}]}
TALK = {"messages": turns("q", "good", "and", "better")}


def _numbered(row: dict[str, Any]) -> str:
    """Eight good rows, with prompts of their own."""
    made = []
    for i in range(8):
        text = line(row).replace('"q"', f'"question {i}"')
        made.append(text)
    return "".join(made)


KINDS: tuple[tuple[str, dict[str, Any], Reader, tuple[tuple[Any, ...], ...]], ...] = (
    ("pairs", PLAIN, pairs, (("prompt",), ("chosen",), ("rejected",), ("chosen_score",), ("rejected_score",))),
    (
        "pairs of messages",
        CHAT,
        pairs,
        (("chosen",), ("chosen", 0), ("chosen", 1, "role"), ("chosen", 1, "content"), ("rejected", 0, "content")),
    ),
    ("ranked lists", LISTED, ranked, (("prompt",), ("responses",), ("responses", 0), ("scores",), ("scores", 1))),
    (
        "ranked objects",
        OBJECTS,
        ranked,
        (
            ("instruction",),
            ("completions",),
            ("completions", 0),
            ("completions", 0, "text"),
            ("completions", 1, "rank"),
        ),
    ),
    (
        "conversations",
        TALK,
        conversations,
        (("messages",), ("messages", 0), ("messages", 1, "role"), ("messages", 1, "content")),
    ),
)
MORE = {
    "reversed": {**PLAIN, "chosen_score": 1.0},
    "tie": {**PLAIN, "chosen_score": 2.0},
    "same text": {**PLAIN, "rejected": "good"},
    "only NaN": {**PLAIN, "chosen_score": float("nan"), "rejected_score": float("nan")},
    "several turns": {"chosen": turns("q", "a", "b", "c"), "rejected": turns("q", "d", "b", "c")},
    "other prompt": {"chosen": turns("q", "a"), "rejected": turns("p", "b")},
}


def _good(name: str, good: str, read: Reader) -> int:
    return guard(lambda: print(read(write(name, good), Counter())))


# --- parquet


def table(columns: dict[str, list[Any]]) -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


COLUMNS = {
    "prompt": ["q", "p"],
    "chosen": ["good", "well"],
    "rejected": ["bad", "ill"],
    "chosen_score": [4.0, 3.0],
    "rejected_score": [1.0, 2.0],
}


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


PARQUET: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"nonsense",
    "magic alone": lambda: b"PAR1",
    "head and tail": lambda: b"PAR1" + b"\0" * 40 + b"PAR1",
    "JSONL": lambda: line(PLAIN).encode(),
    "cut": lambda: _cut(table(COLUMNS)),
    "damaged data": lambda: _flip(table(COLUMNS), 8),
    "damaged end": lambda: _flip(table(COLUMNS), -60),
    "no rows": lambda: table({k: [] for k in COLUMNS}),
    "no columns": lambda: table({}),
    "numbers for texts": lambda: table(COLUMNS | {"chosen": [1, 2]}),
    "null texts": lambda: table(COLUMNS | {"chosen": [None, None]}),
    "binary": lambda: table(COLUMNS | {"chosen": [b"\xff", b"\xfe"]}),
    "NaN score": lambda: table(COLUMNS | {"chosen_score": [float("nan"), 3.0]}),
    "infinite score": lambda: table(COLUMNS | {"rejected_score": [float("-inf"), 3.0]}),
    "text score": lambda: table(COLUMNS | {"chosen_score": ["4", "3"]}),
    "switch score": lambda: table(COLUMNS | {"chosen_score": [True, False]}),
    "lists": lambda: table(COLUMNS | {"chosen": [[1], [2]]}),
    "other columns": lambda: table({"a": [1]}),
    "times": lambda: table(COLUMNS | {"chosen": [__import__("datetime").datetime(2024, 1, 1)] * 2}),
}


def _flip(data: bytes, at: int) -> bytes:
    made = bytearray(data)
    for i in range(24):
        made[(at + i) % len(made)] ^= 0xFF
    return bytes(made)


def _parquet(make: Callable[[], bytes], read: Reader) -> int:
    return guard(lambda: print(read(write("x.parquet", make()), Counter())))


def cases() -> Iterator[Case]:
    for group, row, read, paths in KINDS:
        good = _numbered(row)
        yield Case(group, "good", partial(_good, "x.jsonl", good, read), ACCEPTED)
        for kind in WHOLE:
            yield Case(group, kind, partial(read_whole, "x.jsonl", kind, good, read))
        for kind, raw in RAW.items():
            yield Case(group, kind, partial(read_both, "x.jsonl", good, raw + "\n", read))
        for kind, bad in mutations(row, paths):
            yield Case(group, kind, partial(read_both, "x.jsonl", good, line(bad), read))
    for kind, bad in MORE.items():
        yield Case("pairs", kind, partial(read_both, "x.jsonl", _numbered(PLAIN), line(bad), pairs))
    yield Case("parquet", "good", partial(_parquet, lambda: table(COLUMNS), pairs), ACCEPTED)
    for kind, make in PARQUET.items():
        for name, read in (("pairs", pairs), ("ranked", ranked), ("conversations", conversations)):
            yield Case("parquet", f"{kind} as {name}", partial(_parquet, make, read))
