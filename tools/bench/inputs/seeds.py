"""Open Assistant exports, as trees and as flat messages."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tools.bench.inputs.case import ACCEPTED, Case
from tools.bench.inputs.rows import RAW, WHOLE, line, mutations, read_both, read_whole

FLAGS = {"lang": "en", "deleted": False, "review_result": True, "synthetic": False}
GROUP, MARK = "Open Assistant", "Reply 0 to bad"  # the text that is never used: every fault is in it, or above it


def _message(name: str, parent: str | None, text: str, rank: int | None, **more: Any) -> dict[str, Any]:
    role = "prompter" if parent is None else "assistant"
    return {"message_id": name, "parent_id": parent, "text": text, "role": role, "rank": rank, **FLAGS, **more}


def tree(name: str) -> dict[str, Any]:
    replies = [{**_message(f"{name}{r}", name, f"Reply {r} to {name}, good.", r), "replies": []} for r in (0, 1)]
    root = {**_message(name, None, f"Question {name}?", None), "replies": replies}
    return {"message_tree_id": name, "tree_state": "ready_for_export", "prompt": root}


def flat(name: str) -> list[dict[str, Any]]:
    root = tree(name)["prompt"]
    rows = [root, *root.pop("replies")]
    return [
        {**{k: v for k, v in r.items() if k != "replies"}, "message_tree_id": name, "tree_state": "ready_for_export"}
        for r in rows
    ]


GOOD = {
    "x.trees.jsonl": "".join(line(tree(f"q{i}")) for i in range(12)),
    "x.messages.jsonl": "".join(line(row) for i in range(12) for row in flat(f"q{i}")),
}
FIELDS = ("message_id", "text", "role", "lang", "rank", "deleted", "review_result", "synthetic")


def read(path: Path, counts: Counter[str]) -> object:
    """The records that the stage `seed` writes."""
    from nemo_srlm.config.schema import Config
    from nemo_srlm.data.oasst import read_first_turns
    from nemo_srlm.data.splits import split
    from nemo_srlm.errors import DataError

    cfg = Config()
    cfg.eft.source = "external"
    turns = list(read_first_turns([path], "en", counts))
    if not turns:
        raise DataError(path, f"no first turn ({dict(counts)})", "finished trees")
    return split(turns, cfg.seed, cfg.eft, Counter())


def _flat_rows(name: str, row: int, path: str, value: Any) -> str:
    rows = flat(name)
    rows[row] = {**rows[row], path: value}
    return "".join(map(line, rows))


def cases() -> Iterator[Case]:
    for name, good in GOOD.items():
        yield Case(
            GROUP,
            f"{name}: good",
            partial(_good, name, good),
            ACCEPTED,
        )
        for kind in WHOLE:
            yield Case(GROUP, f"{name}: {kind}", partial(read_whole, name, kind, good, read))
        for kind, raw in RAW.items():
            yield Case(GROUP, f"{name}: {kind}", partial(read_both, name, good, raw + "\n", read))
    one = tree("bad")
    paths = [("tree_state",), ("prompt",), ("prompt", "replies"), ("prompt", "replies", 0)]
    paths += [("prompt", field) for field in FIELDS if field not in ("role", "rank")]
    paths += [("prompt", "replies", 0, field) for field in FIELDS]
    for kind, row in mutations(one, tuple(paths)):
        yield Case(
            GROUP, f"tree {kind}", partial(read_both, "x.trees.jsonl", GOOD["x.trees.jsonl"], line(row), read, MARK)
        )
    judged = tree("bad")
    judged["prompt"]["replies"][0]["judgement"] = "Good. Score: 4"
    for kind, row in mutations(judged, (("prompt", "replies", 0, "judgement"),)):
        yield Case(
            GROUP, f"tree {kind}", partial(read_both, "x.trees.jsonl", GOOD["x.trees.jsonl"], line(row), read, MARK)
        )
    for place in (0, 1):
        rows = flat("bad")
        for kind, row in mutations(
            rows[place], tuple((f,) for f in (*FIELDS, "parent_id", "tree_state") if place or f != "rank")
        ):
            data = "".join(line(row if i == place else other) for i, other in enumerate(rows))
            yield Case(
                GROUP,
                f"flat {place} {kind}",
                partial(read_both, "x.messages.jsonl", GOOD["x.messages.jsonl"], data, read, MARK),
            )
    orphan = {**flat("bad")[1], "parent_id": "nowhere"}
    yield Case(
        GROUP, "flat orphan", partial(read_both, "x.messages.jsonl", GOOD["x.messages.jsonl"], line(orphan), read)
    )


def _good(name: str, good: str) -> int:
    from tools.bench.inputs.case import guard, write

    return guard(lambda: print(read(write(name, good), Counter())))
