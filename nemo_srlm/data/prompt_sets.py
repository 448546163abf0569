"""Prompt sets of the user for evaluation: AlpacaEval's, or any file with one prompt per row and optionally a category.

JSON (a list), or JSON lines; both also gzipped. A row's prompt is `prompt`, `instruction` or `text`, its category
`category` or `dataset` (AlpacaEval's name for where a prompt comes from).
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_srlm.core.files import open_text, read_json_lines
from nemo_srlm.core.records import Prompt, content_id
from nemo_srlm.errors import DataError

NAMES = ("prompt", "instruction", "text")
CATEGORIES = ("category", "dataset")


@dataclass(frozen=True)
class PromptEntry:
    """A prompt with its category; "" for none."""

    prompt: Prompt
    category: str = ""


def read_prompt_set(path: Path, counts: Counter[str]) -> list[PromptEntry]:
    """The prompts in the file's order; repeated texts are dropped and counted. Raises DataError with the row."""
    found: dict[str, PromptEntry] = {}
    for where, row in _rows(path):
        if not isinstance(row, dict):
            raise DataError(where, f"a {type(row).__name__}", f"an object with one of {', '.join(NAMES)}")
        text = next((row[name] for name in NAMES if isinstance(row.get(name), str) and row[name].strip()), None)
        if text is None:
            raise DataError(where, f"no prompt among {sorted(row)}", f"a text in one of {', '.join(NAMES)}")
        category = next((str(row[name]) for name in CATEGORIES if row.get(name)), "")
        prompt = Prompt(content_id("prompt", text), text, "eval")
        counts["rows"] += 1
        counts["duplicate"] += prompt.id in found
        found.setdefault(prompt.id, PromptEntry(prompt, category))
    if not found:
        raise DataError(path, "no prompt", f"rows with one of {', '.join(NAMES)}")
    return list(found.values())


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    if not path.is_file():
        raise DataError(path, "no such file", "a prompt set (JSON or JSONL)")
    if ".jsonl" in path.suffixes:
        yield from ((f"{path}:{line}", row) for line, row in read_json_lines(path))
        return
    with open_text(path) as f:
        try:
            data = json.load(f)
        except json.JSONDecodeError as error:
            raise DataError(path, f"not JSON ({error})", "a list of rows; JSON lines end in .jsonl") from error
    if not isinstance(data, list):
        raise DataError(path, f"a {type(data).__name__}", "a list of rows")
    yield from ((f"{path}[{i}]", row) for i, row in enumerate(data))
