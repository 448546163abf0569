"""What the program prints: text of models and files is shown on a terminal and cannot control it."""

import codecs
import io
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

# C0 without tab and newline, DEL, C1; invisible characters; line separators, embeddings, overrides and isolates, which
# reorder text; halves of surrogate pairs, which no stream can encode
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
FOLLOW_SECONDS = 0.5  # between two looks at a log that is followed
WIDTH = 160  # columns when the output is a file or a pipe


def visible(text: str) -> str:
    """`text` with every character that a terminal would obey as its JSON escape: ESC becomes \\u001b. Tabs and newlines stay.

    The escapes are JSON's, so that printed JSON stays JSON of the same content.
    """
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(text: object, *, error: bool = False) -> None:
    """Prints a line that may hold text of a model, a file or the command line. `error`: to the standard error."""
    print(visible(str(text)), file=sys.stderr if error else sys.stdout, flush=True)


def ask(question: str) -> bool:
    """Whether the user answers with y or yes. Raises EOFError where nobody can answer."""
    print(f"{visible(question)} [y/N] ", end="", flush=True)
    return input().strip().lower() in ("y", "yes")


class _Console(Console):
    """rich turns every string, cells and titles of tables too, into Text by this method."""

    def render_str(self, text: str, **options: Any) -> Text:  # rich's own options, handed on
        return super().render_str(visible(text), **options)


def console() -> Console:
    """A console as wide as the terminal, or WIDTH for a file or a pipe; strings are `visible`."""
    found = _Console()
    return found if found.is_terminal else _Console(width=WIDTH)


def print_log(path: Path, follow: bool) -> None:
    """A log, decoded: what is no UTF-8 is shown as \\xNN, and what overwrites its line (a progress bar) gets lines of its own.

    `follow`: continues as the log grows. Raises FileNotFoundError when it is removed, in place of waiting for ever.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("backslashreplace"), translate=True)
    with path.open("rb") as file:
        while True:
            for chunk in iter(lambda: file.read(2**20), b""):
                print(visible(decoder.decode(chunk)), end="", flush=True)
            if not follow:
                return
            time.sleep(FOLLOW_SECONDS)
            os.stat(path)
