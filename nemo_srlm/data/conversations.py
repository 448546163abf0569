"""SFT data as conversations: JSONL (also .gz) or parquet, rows with `messages` [{"role", "content"}] of one or several turns.

A conversation may begin with a system message; user and assistant take turns after it. One that ends with the user is
used without its last turn. Left out and counted: conversations with other roles or another order, with an empty turn,
without an assistant turn, with a turn that says more than is read (an assistant's `weight`, calls of tools), and duplicates.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nemo_srlm.core.records import Conversation, content_id
from nemo_srlm.data.preference_pairs import SYSTEM, read_rows, refuse_columns
from nemo_srlm.errors import DataError


def read_conversations(paths: Iterable[Path], counts: Counter[str]) -> Iterator[Conversation]:
    """The usable conversations; `counts` gets "chat_rows", and "chat_<reason>" for what is left out or cut.

    Raises DataError (file:line) for a row without a list of messages.
    """
    seen: set[str] = set()
    for path in paths:
        for where, row in read_rows(path, ("messages", *SYSTEM)):
            counts["chat_rows"] += 1
            roles, texts = turns(row, where)
            if roles[0] != "system":
                refuse_columns(row, SYSTEM, where)
            if roles and roles[-1] == "user":
                counts["chat_last_user_turn_cut"] += 1
                roles, texts = roles[:-1], texts[:-1]
            reason = _unread(row["messages"]) or _reason(roles, texts)
            made = content_id("conversation", roles, texts)
            if not reason and made in seen:
                reason = "duplicate"
            if reason:
                counts[f"chat_{reason}"] += 1
                continue
            seen.add(made)
            yield Conversation(made, tuple(roles), tuple(texts), where)


def turns(row: dict[str, Any], where: str) -> tuple[list[str], list[str]]:
    """(roles, texts) of a row's `messages`. Raises DataError where they are no messages."""
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise DataError(
            where, f"no messages among {sorted(row)}", 'messages: [{"role": "user", "content": "..."}, ...]'
        )
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise DataError(f"{where}, message {i}", repr(message)[:80], "an object with the texts role and content")
    return [m["role"] for m in messages], [m["content"].strip() for m in messages]


def _unread(messages: list[dict[str, Any]]) -> str:
    """Why the messages are not only their roles and texts, or "". OpenAI's format marks turns not to train on by `weight` 0."""
    if any(message.get("tool_calls") or message.get("function_call") for message in messages):
        return "tool_calls"
    weights = [message.get("weight") for message in messages if message["role"] == "assistant"]
    return "" if all(weight is None or weight == 1 for weight in weights) else "weighted_turn"


def _reason(roles: list[str], texts: list[str]) -> str:
    """Why a conversation is not usable, or ""."""
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns:
        return "no_assistant_turn"
    if turns != [("user", "assistant")[i % 2] for i in range(len(turns))]:
        return "wrong_order"
    return "" if all(texts) else "empty_turn"


def first_user_turn(conversation: Conversation) -> str:
    return conversation.texts[conversation.roles.index("user")]
