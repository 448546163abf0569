"""Prompt files of the user, for evaluation and for training: any file with one prompt per row and optionally a category.

JSON (a list), JSON lines, plain text with one prompt per line (.txt), all also gzipped; or parquet. A row's prompt is
`prompt`, `instruction`, `text`, or the first user turn of its `messages`; its category is `category` or `dataset`
(AlpacaEval's name for where a prompt comes from). Prompts with a system message are left out: a prompt is one text. An
`input` or `context` beside it (Alpaca's format) is an error.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_srlm.config.text_files import text_file
from nemo_srlm.core.files import read_json, read_json_lines
from nemo_srlm.core.records import Prompt, content_id
from nemo_srlm.data.conversations import turns
from nemo_srlm.data.near_copies import HeldOut, same_text
from nemo_srlm.data.preference_pairs import INPUTS, SYSTEM, read_rows, refuse_columns, stated
from nemo_srlm.data.splits import MAX_EVAL_SHARE, instruction_id
from nemo_srlm.errors import DataError

NAMES = ("prompt", "instruction", "text")
KEYS = (*NAMES, "messages")
CATEGORIES = ("category", "dataset")


@dataclass(frozen=True)
class PromptEntry:
    """A prompt with its category; "" for none."""

    prompt: Prompt
    category: str = ""


def read_prompt_set(path: Path, counts: Counter[str], source: str = "eval") -> list[PromptEntry]:
    """The prompts in the file's order; `counts` gets "rows" and those left out by reason. Raises DataError with the row.

    source: what the prompts are for (Prompt.source).
    """
    found: dict[str, PromptEntry] = {}
    for where, row in _rows(path):
        if not isinstance(row, dict):
            raise DataError(where, f"a {type(row).__name__}", f"an object with one of {', '.join(KEYS)}")
        counts["rows"] += 1
        text = _text(row, where)
        if text is None:
            counts["system_message"] += 1
            continue
        category = next((row[name] for name in CATEGORIES if row.get(name) is not None), "")
        if not isinstance(category, str):
            raise DataError(where, f"category {str(category)[:40]!r}", "a text, or none")
        prompt = Prompt(content_id("prompt", text), text, source)
        counts["duplicate"] += prompt.id in found
        found.setdefault(prompt.id, PromptEntry(prompt, category.strip()))
    if not found:
        raise DataError(path, f"no prompt ({dict(counts)})", f"rows with one of {', '.join(KEYS)}")
    return list(found.values())


# reason of file_prompts -> how a message says it
LEFT_OUT = {
    "duplicate": "repeated", "held_out": "equal to held-out prompts",
    "near_held_out": "near copies of held-out prompts (ROUGE-L above seed.rouge_max)",
}  # fmt: skip


def file_prompts(
    paths: Iterable[Path], apart: Sequence[str], rouge_max: float, num_held_out: int, counts: Counter[str]
) -> tuple[list[Prompt], list[Prompt]]:
    """(prompts of the files to train on, those held out for evaluation), each once, in the order of a hash of the prompt.

    apart: texts that are held out already; they and their near copies (ROUGE-L above rouge_max) are left out and counted,
    as are near copies of what is held out here. At most an eighth of the others is held out. `counts` gets "file_prompts",
    and what is left out as "file_prompts_<reason>".
    """
    read: Counter[str] = Counter()
    unique: dict[str, Prompt] = {}
    for path in paths:
        for entry in read_prompt_set(path, read, "file"):
            key = same_text(entry.prompt.text)
            read["duplicate"] += key in unique
            unique.setdefault(key, entry.prompt)
    order = sorted(unique.values(), key=lambda prompt: content_id("file prompt", instruction_id(prompt.text)))
    left = _apart(order, apart, rouge_max, read)
    num = min(num_held_out, math.floor(len(left) * MAX_EVAL_SHARE))
    held_out, kept = left[:num], _apart(left[num:], [prompt.text for prompt in left[:num]], rouge_max, read)
    counts.update({f"file_prompts_{name}": number for name, number in sorted(read.items()) if number})
    counts["file_prompts"] = len(kept)
    if num:
        counts["eval_prompts"] = num
    return kept, [replace(prompt, source="eval") for prompt in held_out]


def _apart(prompts: Sequence[Prompt], texts: Sequence[str], rouge_max: float, counts: Counter[str]) -> list[Prompt]:
    """The prompts that are neither one of the held-out texts nor near to one; the others are counted by reason."""
    reasons = HeldOut(texts, rouge_max).reasons([prompt.text for prompt in prompts])
    counts.update(reason for reason in reasons if reason)
    return [prompt for prompt, reason in zip(prompts, reasons, strict=True) if not reason]


def part_of_iteration(
    prompts: Sequence[Prompt],
    iteration: int,
    iterations: int,
    num_prompts: int,
    before: int | None = None,
    counts: Mapping[str, int] | None = None,
) -> list[Prompt]:
    """The prompts of an iteration (from 1): consecutive parts, so that none comes twice in a run.

    num_prompts: how many, after the `before` of earlier iterations (None: as many in each); 0 = an equal part for each of
    `iterations`. Raises DataError where they are too few, with what was left out and why (`counts` of file_prompts).
    """
    if not iteration:
        return []
    each = num_prompts or len(prompts) // iterations
    equal = (iteration - 1) * each
    start = before if num_prompts and before is not None else equal
    part = list(prompts[start : start + each])
    if not part or len(part) < each:
        left_out = [
            f"{number} {words}"
            for name, words in LEFT_OUT.items()
            if (number := (counts or {}).get(f"file_prompts_{name}"))
        ]
        reasons = f" (left out: {', '.join(left_out)})" if left_out else ""
        raise DataError(
            "prompts.files", f"{len(prompts)} prompts that are not held out{reasons}",
            f"{max(each, 1)} for each of {iterations} iterations" if start == equal else f"{start + each}: {each} after {start}",
            "set prompts.num_prompts=0 (an equal part for each iteration) or a smaller number, prompts.source=both, or give "
            "more prompts",
        )  # fmt: skip
    return part


def _text(row: dict[str, Any], where: str) -> str | None:
    """The prompt of a row; None where a system message belongs to it. Raises DataError where there is none."""
    given = [(name, row[name]) for name in NAMES if row.get(name) is not None]
    if wrong := [name for name, value in given if not isinstance(value, str)]:
        raise DataError(where, f"{wrong[0]}: a {type(row[wrong[0]]).__name__}", "a text")
    text = next((value for _, value in given if value.strip()), None)
    if text is not None:
        refuse_columns(row, INPUTS, where)
    if text is None and "messages" in row:
        roles, texts = turns(row, where)
        if roles[0] == "system":
            return None
        text = texts[roles.index("user")] if "user" in roles else None
    if not text:
        raise DataError(where, f"no prompt among {sorted(row)}", f"a text in one of {', '.join(KEYS)}")
    return None if stated(row, SYSTEM) else str(text)


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    if not path.is_file():
        raise DataError(path, "no such file", "a prompt file (JSON, JSONL, txt or parquet)")
    if path.suffix == ".parquet":
        yield from read_rows(path, (*KEYS, *CATEGORIES, *SYSTEM, *INPUTS))
        return
    kind = Path(path.name.removesuffix(".gz")).suffix
    if kind == ".txt":
        with text_file(path, "UTF-8 text with one prompt per line") as f:
            for i, line in enumerate(f, 1):
                if "\0" in line:  # UTF-16 without its mark, or no text at all
                    raise DataError(f"{path}:{i}", "a NUL character", "UTF-8 text with one prompt per line")
                if line.strip():
                    yield f"{path}:{i}", {"prompt": line.strip()}
        return
    if kind == ".jsonl":
        yield from ((f"{path}:{line}", row) for line, row in read_json_lines(path, finite=True))
        return
    data = read_json(path, "a list of rows; JSON lines end in .jsonl")
    if not isinstance(data, list):
        raise DataError(path, f"a {type(data).__name__}", "a list of rows")
    yield from ((f"{path}[{i}]", row) for i, row in enumerate(data))
