"""Open Assistant exports: first turns with their ranked replies, from trees or from flat messages.

Two released formats, plain or gzipped: `*.trees.jsonl` (one tree per line, replies nested) and `*.messages.jsonl` (one
message per line, linked by parent_id). Both give the same first turns. Only finished trees are used (tree_state
"ready_for_export"): the moderation or ranking of the others is not complete. Everything that is left out is counted by
reason. A reply may have an extra key "judgement" (a justification that ends in "Score: k"), for eft.source=external
(docs/data.md).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from nemo_srlm.core.files import read_json_lines
from nemo_srlm.errors import DataError

FINISHED = "ready_for_export"


@dataclass(frozen=True)
class Reply:
    """One usable reply; rank 0 is the best of its siblings, None when it was not ranked."""

    id: str
    text: str
    rank: int | None
    judgement: str = ""


@dataclass(frozen=True)
class FirstTurn:
    """The first message of a conversation and its usable replies, ranked ones first, best first."""

    id: str
    text: str
    replies: tuple[Reply, ...]


def read_first_turns(paths: Iterable[Path], language: str, counts: Counter[str]) -> Iterator[FirstTurn]:
    """First turns of all files in `language` (exact tag, such as "en", "de", "pt-BR"), one per tree.

    `counts` gets "trees" and, for what is left out, "tree_<reason>" and "reply_<reason>". Raises DataError (file:line)
    for a file that is missing, malformed or in neither format.
    """
    seen: set[str] = set()
    for path in paths:
        for where, state, root in _roots(path, counts):
            counts["trees"] += 1
            reason = _tree_reason(root, state, language, where)
            if not reason and _field(root, "message_id", str, where) in seen:
                reason = "duplicate"
            if reason:
                counts[f"tree_{reason}"] += 1
                continue
            seen.add(root["message_id"])
            yield _first_turn(root, language, where, counts)


def _roots(path: Path, counts: Counter[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(file:line, tree state, root message with its replies) of either format."""
    flat: list[tuple[str, dict[str, Any]]] = []
    for number, data in read_json_lines(path, finite=True):
        where = f"{path}:{number}"
        if not isinstance(data, dict):
            raise DataError(where, f"a {type(data).__name__}", "an object: an Open Assistant tree or message")
        if "prompt" in data:
            if not isinstance(data["prompt"], dict):
                raise DataError(where, "a tree whose prompt is not an object", "an Open Assistant message tree")
            yield where, _field(data, "tree_state", str, where), data["prompt"]
        elif "message_id" in data:
            flat.append((where, data))
        else:
            raise DataError(
                where, f"keys {sorted(data)[:8]}", "an Open Assistant tree (`prompt`) or message (`message_id`)"
            )
    yield from _roots_of_messages(flat, counts)


def _roots_of_messages(
    flat: list[tuple[str, dict[str, Any]]], counts: Counter[str]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Flat messages may be in any order; only direct replies to a root are attached to it (first turns)."""
    for where, data in flat:
        _field(data, "message_id", str, where)
        if not isinstance(data.get("parent_id"), (str, NoneType)):
            raise DataError(where, f"parent_id {data['parent_id']!r}", "a message's id, or null for a first message")
    roots = {data["message_id"]: {**data, "replies": []} for _, data in flat if not data.get("parent_id")}
    known = {data["message_id"] for _, data in flat}
    placed: set[str] = set()  # a tree that is twice in an export must not get each reply twice
    for where, data in flat:
        parent = data.get("parent_id")
        if parent in roots:
            if data["message_id"] not in placed:
                roots[parent]["replies"].append(data)
            placed.add(data["message_id"])
        elif parent and parent not in known:
            counts["reply_orphan"] += 1
        elif not parent and "tree_state" not in data:
            raise DataError(where, "a first message without tree_state", "an Open Assistant message export")
    for where, data in flat:
        if not data.get("parent_id"):
            yield where, _field(data, "tree_state", str, where), roots[data["message_id"]]


def _field(data: dict[str, Any], name: str, kind: type, where: str) -> Any:
    if name not in data or not isinstance(data[name], kind):
        found = type(data[name]).__name__ if name in data else "nothing"
        raise DataError(where, f"{name}: {found}", f"{kind.__name__}, as Open Assistant exports have it")
    return data[name]


def _tree_reason(root: dict[str, Any], state: str, language: str, where: str) -> str:
    """Why the tree is left out, or "". Checked in the order: language, state, moderation, text."""
    if _field(root, "lang", str, where) != language:
        return "other_language"
    if state != FINISHED:
        return f"state_{state}"
    if reason := _message_reason(root):
        return reason
    return "" if _field(root, "text", str, where).strip() else "empty"


def _message_reason(message: dict[str, Any]) -> str:
    """Why a message is left out by its moderation flags, or "". Older exports have fewer flags: an absent one is no reason."""
    if message.get("deleted"):
        return "deleted"
    if message.get("review_result") is False:
        return "failed_review"
    return "synthetic" if message.get("synthetic") else ""


def _first_turn(root: dict[str, Any], language: str, where: str, counts: Counter[str]) -> FirstTurn:
    replies = []
    for data in _field(root, "replies", list, where):
        counts["replies"] += 1
        if not isinstance(data, dict):
            raise DataError(where, f"a reply that is a {type(data).__name__}", "an Open Assistant message")
        reason = _message_reason(data)
        if not reason and _field(data, "lang", str, where) != language:
            reason = "other_language"
        if not reason and _field(data, "role", str, where) != "assistant":
            reason = "not_assistant"
        if not reason and not _field(data, "text", str, where).strip():
            reason = "empty"
        if reason:
            counts[f"reply_{reason}"] += 1
            continue
        rank = data.get("rank")  # absent or null where it was not ranked
        if isinstance(rank, float) and rank.is_integer():  # pandas writes a column with a null as 0.0, 1.0
            rank = int(rank)
        if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool) or rank < 0):
            raise DataError(where, f"rank {rank!r}", "a whole number from 0 (the best), or null")
        judgement = data.get("judgement")
        if not isinstance(judgement, (str, NoneType)):
            raise DataError(where, f"judgement: {type(judgement).__name__}", "a text, or null")
        counts["reply_unranked"] += rank is None
        replies.append(Reply(_field(data, "message_id", str, where), data["text"].strip(), rank, judgement or ""))
    replies.sort(key=lambda reply: (reply.rank is None, reply.rank or 0, reply.id))
    return FirstTurn(root["message_id"], root["text"].strip(), tuple(replies))
