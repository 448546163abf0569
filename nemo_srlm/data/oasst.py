"""Open Assistant exports: first turns with their ranked replies, from trees or from flat messages.

Two released formats, plain or gzipped: `*.trees.jsonl` (one tree per line, replies nested) and `*.messages.jsonl` (one
message per line, linked by parent_id). Both give the same first turns. Only finished trees are used (tree_state
"ready_for_export"): the moderation or ranking of the others is not complete. Everything that is left out is counted by
reason. A reply may have an extra key "judgement" (a justification that ends in "Score: k"), for eft.source=external
(docs/data.md).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from nemo_srlm.core.files import read_json_lines
from nemo_srlm.errors import DataError

FINISHED = "ready_for_export"
LAST_RANK = 9999
READ = ("message_id", "text", "role", "lang", "rank", "judgement", "deleted", "review_result", "synthetic")


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
    later: tuple["LaterTurn", ...] = ()  # where they are asked for


@dataclass(frozen=True)
class LaterTurn:
    """A later message of a user, and its usable replies."""

    id: str
    text: str
    conversation: str  # all turns up to this one, as one text
    replies: tuple[Reply, ...]


def read_first_turns(
    paths: Iterable[Path], language: str, counts: Counter[str], later: bool = False
) -> Iterator[FirstTurn]:
    """First turns of all files in `language` ("pt" takes "pt-BR" and "PT", "pt-BR" not "pt"), one per tree.

    later: with the later turns of its conversations.

    `counts` gets "trees" and, for what is left out, "tree_<reason>" and "reply_<reason>". Raises DataError (file:line)
    for a file that is missing, malformed or in neither format.
    """
    seen: dict[str, tuple[str, str]] = {}  # id of a tree -> (digest of all of it, where it is)
    for path in paths:
        for where, state, root in _roots(path, counts):
            counts["trees"] += 1
            reason = _tree_reason(root, state, language, where)
            if not reason and _id(root, where) in seen:
                same, first = seen[root["message_id"]]
                if same != _tree_digest(root):
                    raise _conflict(where, root["message_id"], first, "an equal tree")
                reason = "duplicate"
            if reason:
                counts[f"tree_{reason}"] += 1
                continue
            seen[root["message_id"]] = _tree_digest(root), where
            _check_ids(root, where)
            following = tuple(_later_turns(root, language, where, counts)) if later else ()
            replies = _replies(root, language, where, counts)
            yield FirstTurn(root["message_id"], root["text"].strip(), replies, following)


def _tree_digest(root: dict[str, Any]) -> str:
    """Of all that is read of a tree. The order of replies says nothing: it is another one in flat messages."""
    rows, todo = [], list[tuple[Any, Any]]([(None, root)])
    while todo:
        parent, message = todo.pop()
        fields = [message.get(name) for name in READ] if isinstance(message, dict) else message
        rows.append(json.dumps([parent, fields]))
        replies = message.get("replies") if isinstance(message, dict) else None
        todo += [(fields[0], reply) for reply in replies] if isinstance(replies, list) else []
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def _conflict(where: str, name: str, first: str, expected: str) -> DataError:
    return DataError(
        where, f"message_id {name!r} again, with another content than in {first}", expected,
        "remove one of both, or give it another id",
    )  # fmt: skip


def _check_ids(root: dict[str, Any], where: str) -> None:
    """Raises DataError for an id that is twice in a tree: judgements are kept by it."""
    seen: set[str] = set()
    todo: list[Any] = [root]
    while todo:
        message = todo.pop()
        if not isinstance(message, dict):
            continue  # an error, unless what it answers is left out
        name, replies = message.get("message_id"), message.get("replies")
        todo += replies if isinstance(replies, list) else []
        if not isinstance(name, str):
            continue
        if name in seen:
            raise DataError(
                where, f"message_id {name!r} twice in one tree", "an id of its own for every message",
                "remove one of both, or give it another id",
            )  # fmt: skip
        seen.add(name)


def speaks(tag: str, language: str) -> bool:
    """Whether a text's language tag is `language` or one of its varieties, in any case: "pt" takes "pt-BR" and "pt_PT"."""
    found, wanted = (name.casefold().replace("_", "-") for name in (tag, language))
    return found == wanted or found.startswith(f"{wanted}-")


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
    """Flat messages may be in any order; each is attached to the message that it answers."""
    for where, data in flat:
        _id(data, where)
        if not isinstance(data.get("parent_id"), (str, NoneType)) or data.get("parent_id") == "":
            raise DataError(where, f"parent_id {data['parent_id']!r}", "a message's id, or null for a first message")
        if "tree_state" in data:
            _field(data, "tree_state", str, where)
    once: dict[str, tuple[str, dict[str, Any]]] = {}
    for where, data in flat:
        first, same = once.setdefault(data["message_id"], (where, data))
        if data != same:
            raise _conflict(where, data["message_id"], first, "an equal row, or an id of its own for every message")
        if first != where and data.get("parent_id"):  # a repeated first message is counted as a tree
            counts["reply_duplicate"] += 1
    known = {name: {**data, "replies": []} for name, (_, data) in once.items()}
    placed: set[str] = set()  # a tree that is twice in an export must not get each reply twice
    for where, data in flat:
        parent = data.get("parent_id")
        if parent in known:
            if data["message_id"] not in placed:
                known[parent]["replies"].append(known[data["message_id"]])
            placed.add(data["message_id"])
        elif not parent and "tree_state" not in data:
            raise DataError(where, "a first message without tree_state", "an Open Assistant message export")
    if lost := len(known) - _count_reached(known):
        counts["reply_orphan"] += lost
    for where, data in flat:
        if not data.get("parent_id"):
            yield where, _field(data, "tree_state", str, where), known[data["message_id"]]


def _count_reached(known: dict[str, dict[str, Any]]) -> int:
    """How many messages a first message leads to: none to an orphan, its replies, and messages that answer in a circle."""
    reached, todo = 0, [message for message in known.values() if not message.get("parent_id")]
    while todo:
        reached += 1
        todo += todo.pop()["replies"]
    return reached


def _field(data: dict[str, Any], name: str, kind: type, where: str) -> Any:
    if name not in data or not isinstance(data[name], kind):
        found = type(data[name]).__name__ if name in data else "nothing"
        raise DataError(where, f"{name}: {found}", f"{kind.__name__}, as Open Assistant exports have it")
    return data[name]


def _id(data: dict[str, Any], where: str) -> str:
    found = str(_field(data, "message_id", str, where))
    if not found.strip():
        raise DataError(where, "message_id: empty", "str, as Open Assistant exports have it")
    return found


def _tree_reason(root: dict[str, Any], state: str, language: str, where: str) -> str:
    """Why the tree is left out, or "". Checked in the order: language, state, moderation, text."""
    if not speaks(_field(root, "lang", str, where), language):
        return "other_language"
    if state != FINISHED:
        return f"state_{state}"
    if "role" in root and _field(root, "role", str, where) != "prompter":
        return "not_prompter"
    if reason := _message_reason(root, where):
        return reason
    return "" if _field(root, "text", str, where).strip() else "empty"


def _message_reason(message: dict[str, Any], where: str) -> str:
    """Why a message is left out by its moderation flags, or "". Older exports have fewer flags: an absent one is no reason."""
    for name in ("deleted", "review_result", "synthetic"):
        if not isinstance(message.get(name), (bool, NoneType)):
            raise DataError(where, f"{name}: {str(message[name])[:40]}", "true, false or null")
    if message.get("deleted"):
        return "deleted"
    if message.get("review_result") is False:
        return "failed_review"
    return "synthetic" if message.get("synthetic") else ""


def _reply_reason(data: Any, language: str, role: str, where: str) -> str:
    """Why a message that answers another is left out, or "". Raises DataError for what is no message."""
    if not isinstance(data, dict):
        raise DataError(where, f"a reply that is a {type(data).__name__}", "an Open Assistant message")
    if reason := _message_reason(data, where):
        return reason
    if not speaks(_field(data, "lang", str, where), language):
        return "other_language"
    if _field(data, "role", str, where) != role:
        return f"not_{role}"
    return "" if _field(data, "text", str, where).strip() else "empty"


def _later_turns(root: dict[str, Any], language: str, where: str, counts: Counter[str]) -> Iterator[LaterTurn]:
    """The later turns of users under a first message, at every depth; left out: those behind a message that is left out."""
    above = [(root, root["text"].strip())]
    while above:
        asked, conversation = above.pop()
        for reply in _field(asked, "replies", list, where):
            if _reply_reason(reply, language, "assistant", where):
                continue  # counted with the replies of its turn
            for turn in _field(reply, "replies", list, where):
                if reason := _reply_reason(turn, language, "prompter", where):
                    counts[f"later_{reason}"] += 1
                    continue
                text = turn["text"].strip()
                so_far = f"{conversation}\n\nAssistant: {reply['text'].strip()}\n\nUser: {text}"
                replies = _replies(turn, language, where, counts)
                yield LaterTurn(_id(turn, where), text, so_far, replies)
                above.append((turn, so_far))


def _replies(message: dict[str, Any], language: str, where: str, counts: Counter[str]) -> tuple[Reply, ...]:
    """The usable replies to a user's message, ranked ones first, best first."""
    replies = []
    for data in _field(message, "replies", list, where):
        counts["replies"] += 1
        if reason := _reply_reason(data, language, "assistant", where):
            counts[f"reply_{reason}"] += 1
            continue
        rank = data.get("rank")  # absent or null where it was not ranked
        if isinstance(rank, float) and rank.is_integer():  # pandas writes a column with a null as 0.0, 1.0
            rank = int(rank)
        if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool) or not 0 <= rank <= LAST_RANK):
            raise DataError(
                where, f"rank {str(rank)[:20]}", f"a whole number from 0 (the best) to {LAST_RANK}, or null"
            )
        judgement = data.get("judgement")
        if not isinstance(judgement, (str, NoneType)):
            raise DataError(where, f"judgement: {type(judgement).__name__}", "a text, or null")
        counts["reply_unranked"] += rank is None
        replies.append(Reply(_id(data, where), data["text"].strip(), rank, judgement or ""))
    replies.sort(key=lambda reply: (reply.rank is None, reply.rank or 0, reply.id))
    return tuple(replies)
