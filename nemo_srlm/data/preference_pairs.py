"""External preferences: files of chosen and rejected responses (such as UltraFeedback) -> preference pairs.

JSONL (also .gz), or parquet. `chosen` and `rejected` are texts beside a `prompt`, or lists of messages [{"role": "user"},
{"role": "assistant"}], or the assistant's alone beside a `prompt` (TRL's is of messages), or Anthropic HH's "Human: ...
Assistant: ..."; optional scores: chosen_score / rejected_score, or score_chosen / score_rejected; optional weight and
certainty of the pair in the loss (records.PreferencePair). A row with a system message, or with an input beside its
`prompt`, in columns of their own is an error. Left out and counted: conversations of several turns or with a system message,
another prompt in `prompt` than in messages or transcript, empty or equal texts, equal scores, a chosen score below the
rejected one, duplicates.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_json_lines
from nemo_srlm.core.records import PreferencePair, content_id
from nemo_srlm.data.near_copies import HeldOut
from nemo_srlm.errors import ConfigError, DataError

WEIGHTS = ("weight", "certainty")
SYSTEM, INPUTS = ("system", "system_prompt"), ("input", "context")  # columns in which others keep a part of a prompt
SCORES = {side: (f"{side}_score", f"score_{side}") for side in ("chosen", "rejected")}
COLUMNS = ("prompt", "chosen", "rejected", *SYSTEM, *INPUTS, *SCORES["chosen"], *SCORES["rejected"], *WEIGHTS)
BATCH = 4096  # pairs that are compared with the held-out prompts at once


def preference_files(cfg: Config) -> list[Path]:
    """The paths of pairs.files. Raises ConfigError where there are none, DataError where one does not exist."""
    if not cfg.pairs.files:
        raise ConfigError(
            "pairs.files", "empty, with run.arm=external", "preference files", "set pairs.files=[path, ...]"
        )
    paths = [Path(name) for name in cfg.pairs.files]
    for path in paths:
        if not path.is_file():
            raise DataError(path, "no such file", "JSONL or parquet with chosen and rejected", "correct pairs.files")
    return paths


def read_pairs(paths: Iterable[Path], counts: Counter[str], apart: HeldOut | None = None) -> Iterator[PreferencePair]:
    """Streams the usable pairs; `counts` gets "pairs" and, for what is left out, "dropped_<reason>".

    apart: prompts that nothing is trained on, nor on their near copies.
    """
    usable = _usable(paths, counts)
    while batch := list(islice(usable, BATCH)):
        prompts = list(dict.fromkeys(pair.prompt for pair in batch))
        reasons = dict(zip(prompts, apart.reasons(prompts), strict=True)) if apart else {}
        for pair in batch:
            if reason := reasons.get(pair.prompt):
                counts[f"dropped_{reason}"] += 1
                continue
            counts["pairs"] += 1
            counts["chosen_characters"] += len(pair.chosen)
            counts["rejected_characters"] += len(pair.rejected)
            yield pair


def _usable(paths: Iterable[Path], counts: Counter[str]) -> Iterator[PreferencePair]:
    """The pairs of all rows that are one; the other rows are counted by reason."""
    seen: set[str] = set()
    for path in paths:
        for where, row in read_rows(path, COLUMNS):
            counts["prompts"] += 1
            found = to_pair(row, where)
            if isinstance(found, PreferencePair) and found.id in seen:
                found = "duplicate"
            if isinstance(found, str):
                counts[f"dropped_{found}"] += 1
                continue
            seen.add(found.id)
            yield found


def read_rows(path: Path, columns: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, row) of a JSONL or parquet file. columns: those that the caller knows; of parquet the others are not read."""
    if path.suffix == ".parquet":
        yield from ((f"{path} row {number}", row) for number, row in enumerate(_parquet_rows(path, columns)))
        return
    for line, row in read_json_lines(path, finite=True):
        if not isinstance(row, dict):
            raise DataError(f"{path}:{line}", f"a {type(row).__name__}", "a JSON object per line")
        yield f"{path}:{line}", row


def _parquet_rows(path: Path, columns: Collection[str]) -> Iterator[dict[str, Any]]:
    """The rows; None in columns that are not read: what others keep there (a struct with a field twice, a time zone that is not
    known here) may be no Python value. Raises DataError for a file that is cut, damaged or no parquet."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    if not path.is_file():
        raise DataError(path, "no such file", "a parquet file")
    try:
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            read = [name for name in names if name in columns]
            if len(set(read)) < len(read):  # the last one would be read, without a word
                twice = next(name for name in read if read.count(name) > 1)
                raise DataError(path, f"the column {twice} twice", "every column once", "remove or rename one of them")
            unread = dict.fromkeys(name for name in names if name not in columns)
            for batch in file.iter_batches(batch_size=1024, columns=read):
                yield from (unread | row for row in batch.to_pylist())
    except (ArrowException, OSError, ValueError, LookupError, OverflowError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(path, f"unreadable ({reason})", "a complete parquet file", "fetch or write it again") from error


def stated(row: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Which of these columns are not empty."""
    return [name for name in names if row.get(name) and str(row[name]).strip()]


def refuse_columns(row: dict[str, Any], names: Iterable[str], where: str) -> None:
    """Raises DataError for a part of the prompt in a column that is not read: without it the prompt is another one."""
    for name in stated(row, names):
        raise DataError(
            where, f"{name}: {str(row[name])[:40]!r}", "the whole prompt in one place: this column is not read",
            f"join {name} and the prompt into one text per row, or remove the column",
        )  # fmt: skip


def to_pair(row: dict[str, Any], where: str) -> PreferencePair | str:
    """The row's pair, or the reason why it is not usable. Raises DataError for a row that is not a preference."""
    if missing := [name for name in ("chosen", "rejected") if row.get(name) is None]:
        raise DataError(where, f"no {' and no '.join(missing)}", "a row with chosen and rejected")
    refuse_columns(row, (*SYSTEM, *(INPUTS if isinstance(row.get("prompt"), str) else ())), where)
    asked = row["prompt"] if isinstance(row.get("prompt"), list) else []  # TRL's explicit prompt: messages before both
    sides = [_single_turn([*asked, *row[name]] if asked and isinstance(row[name], list) else row[name], where)
             for name in ("chosen", "rejected")]  # fmt: skip
    if reason := next((side for side in sides if isinstance(side, str)), None):
        return reason
    (chosen_prompt, chosen), (rejected_prompt, rejected) = (side for side in sides if not isinstance(side, str))
    prompt = row["prompt"] if isinstance(row.get("prompt"), str) else chosen_prompt
    if not isinstance(prompt, str) or rejected_prompt not in (None, chosen_prompt):
        raise DataError(where, "no prompt that both responses answer", "`prompt`, or one user message before both")
    if not (prompt.strip() and chosen.strip() and rejected.strip()):
        return "empty"
    if chosen_prompt is not None and chosen_prompt.strip() != prompt.strip():
        return "other_prompt"  # which of both the responses answer is not known
    if chosen == rejected:
        return "same_text"
    high, low = _score(row, "chosen", where), _score(row, "rejected", where)
    if high is not None and low is not None and high <= low:
        return "tie" if high == low else "reversed_scores"
    prompt_id = content_id("prompt", prompt)
    pair_id = content_id("pair", prompt_id, chosen, rejected)
    weights = {name: _weight(row, name, where) for name in WEIGHTS if row.get(name) is not None}
    return PreferencePair(pair_id, prompt_id, prompt, chosen, rejected, high, low, **weights)


def _single_turn(value: Any, where: str) -> tuple[str | None, str] | str:
    """(prompt or None, response) of a text or of messages of (user and) assistant; for others the reason why not."""
    if isinstance(value, str):
        return _transcript(value)
    if not isinstance(value, list) or not all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in value):
        raise DataError(
            where, f"a response that is a {type(value).__name__}", "a text, or messages with role and content"
        )
    roles = [message["role"] for message in value]
    if roles[:1] == ["system"]:
        return "system_message"
    if roles not in (["user", "assistant"], ["assistant"]):
        return "several_turns"
    if not all(isinstance(message["content"], str) for message in value):
        raise DataError(where, "a message whose content is no text", "messages with role and content, both texts")
    return value[0]["content"] if len(value) == 2 else None, value[-1]["content"]


def _transcript(text: str) -> tuple[str | None, str] | str:
    """A plain text, or Anthropic HH's format of a conversation: "\\n\\nHuman: ...\\n\\nAssistant: ..."."""
    if not text.startswith("\n\nHuman: "):
        return None, text
    turns = text.removeprefix("\n\nHuman: ").split("\n\nAssistant: ")
    if len(turns) != 2 or any("\n\nHuman: " in turn for turn in turns):
        return "several_turns"
    return turns[0], turns[1]


def finite_number(value: Any, name: str, where: str) -> float:
    """The number. Raises DataError for what is none, for NaN and infinity (parquet has them) and what no float can hold."""
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer of more than 308 digits
        pass
    raise DataError(where, f"{name}: {str(value)[:40]}", "a finite number")


def _weight(row: dict[str, Any], name: str, where: str) -> float:
    value = finite_number(row[name], name, where)
    if value < 0 or (name == "certainty" and value > 1):
        raise DataError(where, f"{name}: {value:g}", "0 to 1" if name == "certainty" else "0 or more")
    return value


def _score(row: dict[str, Any], side: str, where: str) -> float | None:
    for name in SCORES[side]:
        if row.get(name) is not None:
            return finite_number(row[name], name, where)
    return None
