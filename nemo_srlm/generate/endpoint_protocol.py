"""What an OpenAI-compatible endpoint sends, decoded by type, and its messages without the key."""

import json
import math
import os
import re
import urllib.parse
from typing import Annotated, Any

import msgspec

from nemo_srlm.errors import ConfigError

SECRET = 12  # characters from which on a key is no ordinary word
LONGEST_MESSAGE = 500  # characters of an endpoint's message that are kept

Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class Message(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    message: Message
    finish_reason: str | None = None


class Usage(msgspec.Struct):
    """Tokens of a call, for which the endpoint charges."""

    prompt_tokens: Count
    completion_tokens: Count


class ChatCompletion(msgspec.Struct):
    """A response to POST /chat/completions; fields that are not read may hold anything."""

    choices: list[Choice]
    usage: Usage


def read_key(variable: str) -> str:
    """The endpoint's key from the environment. Raises ConfigError, which does not repeat it."""
    key = os.environ.get(variable)
    if key is None:
        raise ConfigError(
            "api.key_variable", f"{variable} is not in the environment", "the endpoint's key there",
            f"export {variable}=... (an endpoint without keys: any word)",
        )  # fmt: skip
    key = key.strip()  # a line end from a file or a Windows shell belongs to no key
    if not key or not all("!" <= character <= "~" for character in key):
        raise ConfigError(
            "api.key_variable", f"{variable} is empty or holds characters that no HTTP header can carry",
            "printable ASCII without spaces", f"export {variable}=... again, without quotes or line ends inside",
        )  # fmt: skip
    return key


def redacted(text: str, key: str, shown: int = 8) -> str:
    """`text` without the key: plain, escaped as JSON or as in an address, or abbreviated after its first `shown` characters."""
    for form in {key, json.dumps(key)[1:-1], urllib.parse.quote(key, safe="")}:
        text = text.replace(form, "***")
        if len(form) >= SECRET:
            text = re.sub(re.escape(form[:shown]) + r"\S*", "***", text)
    return text


def without_key(content: str, key: str) -> str:
    """A response's text, in which an endpoint that echoes what it was sent may quote the key. A short key may be a word
    (endpoints without keys take any): it stays."""
    return redacted(content, key, SECRET) if len(key) >= SECRET else content


def message_of(body: bytes, key: str) -> str:
    """The words of an error response in one line: its `error.message` where it is JSON. Redacted before it is cut."""
    text = body.decode(errors="replace")
    try:
        found: Any = json.loads(text)
        for name in ("error", "message", "detail"):
            found = found.get(name, found) if isinstance(found, dict) else found
        text = found if isinstance(found, str) else text
    except (ValueError, RecursionError):
        pass
    return " ".join(redacted(text, key).split())[:LONGEST_MESSAGE]


def retry_after(header: str | None, longest: float) -> float:
    """Retry-After in seconds, from 0 to `longest`; 0 for a date or nonsense (then our own back-off applies)."""
    try:
        seconds = float(header or 0)
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), longest) if math.isfinite(seconds) else 0.0
