"""Preference files of several formats as ranked replies, to measure a judge against them.

Open Assistant exports (*.trees.jsonl, *.messages.jsonl), or rows of JSONL / parquet (also .gz) with
- `chosen` and `rejected` (see preference_pairs.py): two ranks; or
- `prompt` (or `instruction`) and a list `replies`, `responses`, `completions` or `answers` of two or more: texts with a
  parallel list `ranks` or `scores`, or objects with `text` (or `response`, `content`, `answer`) and `rank` (0 or 1 is the
  best), or a score: `score`, `rating`, `overall_score`, `score_overall` (more is better).
Equal scores are equal ranks. Unranked replies, and rows with fewer than two ranked ones, are left out and counted.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nemo_srlm.core.records import PreferencePair, RankedReply, content_id
from nemo_srlm.data.oasst import read_first_turns
from nemo_srlm.data.preference_pairs import INPUTS, SYSTEM, finite_number, read_rows, refuse_columns, to_pair
from nemo_srlm.data.splits import instruction_id
from nemo_srlm.errors import DataError

LISTS = ("replies", "responses", "completions", "answers")
TEXTS = ("text", "response", "content", "answer")
SCORES = ("score", "rating", "overall_score", "score_overall")


def read_ranked(path: Path, language: str, most: int, counts: Counter[str]) -> list[RankedReply]:
    """The ranked replies of a file, of at most `most` instructions (0: all), chosen by a hash of the instruction.

    `counts` gets "instructions", "replies" and, for what is left out, "dropped_<reason>". Raises DataError (file:line).
    """
    groups: dict[str, list[RankedReply]] = {}
    for instruction, ranked in _instructions(path, language, counts):
        key = instruction_id(instruction)
        if len(ranked) < 2:
            counts["dropped_fewer_than_two"] += 1
        elif key in groups:
            counts["dropped_duplicate"] += 1
        else:
            groups[key] = [
                RankedReply(content_id("ranked", key, i, text), key, instruction, text, rank)
                for i, (text, rank) in enumerate(ranked)
            ]
    if not groups:
        raise DataError(path, f"no instruction with two ranked replies ({dict(counts)})", "a preference file")
    chosen = sorted(groups, key=lambda key: content_id("sample", key))[: most or None]
    kept = [key for key in groups if key in set(chosen)] if most else list(groups)
    counts["dropped_not_sampled"] += len(groups) - len(kept)
    counts["instructions"] += len(kept)
    found = [reply for key in kept for reply in groups[key]]
    counts["replies"] += len(found)
    return found


def _instructions(path: Path, language: str, counts: Counter[str]) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """(instruction, [(text, rank)]) of every row."""
    if any(mark in path.name for mark in (".trees.jsonl", ".messages.jsonl")):
        for turn in read_first_turns([path], language, counts):
            yield turn.text, [(reply.text, reply.rank) for reply in turn.replies if reply.rank is not None]
        return
    for where, row in read_rows(path):
        if "chosen" in row and "rejected" in row:
            pair = to_pair(row, where)
            if isinstance(pair, PreferencePair):
                yield pair.prompt, [(pair.chosen, 0), (pair.rejected, 1)]
            else:
                counts[f"dropped_{pair}"] += 1
            continue
        yield _listed(row, where, counts)


def _listed(row: dict[str, Any], where: str, counts: Counter[str]) -> tuple[str, list[tuple[str, int]]]:
    prompt = next((row[name] for name in ("prompt", "instruction") if isinstance(row.get(name), str)), None)
    listed = next((row[name] for name in LISTS if isinstance(row.get(name), list)), None)
    if prompt is None or not prompt.strip() or listed is None:
        raise DataError(
            where, f"no ranked replies among {sorted(row)}",
            f"chosen and rejected, or prompt (instruction) and one of {', '.join(LISTS)}",
        )  # fmt: skip
    refuse_columns(row, (*SYSTEM, *INPUTS), where)
    texts, marks = [], []
    for i, reply in enumerate(listed):
        text, mark = _reply(row, reply, i, len(listed), where)
        if mark is None or not text.strip():
            counts["dropped_unranked_replies" if mark is None else "dropped_empty_replies"] += 1
            continue
        texts.append(text)
        marks.append(mark)
    return prompt, list(zip(texts, dense_ranks(marks), strict=True))


def _reply(row: dict[str, Any], reply: Any, i: int, num_replies: int, where: str) -> tuple[str, float | None]:
    """(text, mark) of reply `i` of `num_replies`: a smaller mark is better; None for an unranked reply."""
    if isinstance(reply, dict):
        text = next((reply[name] for name in TEXTS if isinstance(reply.get(name), str)), None)
        rank, score = reply.get("rank"), next((reply[name] for name in SCORES if reply.get(name) is not None), None)
    else:
        text = reply if isinstance(reply, str) else None
        rank, score = (_at(row.get(name), i, num_replies, name, where) for name in ("ranks", "scores"))
    if text is None:
        raise DataError(where, f"reply {i} has no text", f"a text, or an object with one of {', '.join(TEXTS)}")
    if rank is None and score is None:
        return text, None
    if rank is not None:
        number = finite_number(rank, f"the rank of reply {i}", where)
        if number < 0 or not number.is_integer():
            raise DataError(where, f"the rank of reply {i}: {rank}", "a whole number, 0 or 1 for the best")
        return text, number
    return text, -finite_number(_parsed(score), f"the score of reply {i}", where)


def _parsed(score: Any) -> Any:
    """UltraFeedback writes ratings as texts."""
    try:
        return float(score) if isinstance(score, str) else score
    except ValueError:
        return score


def _at(values: Any, i: int, replies: int, name: str, where: str) -> Any:
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != replies:
        found = f"{len(values)} {name}" if isinstance(values, list) else f"{name}: {str(values)[:40]}"
        raise DataError(where, f"{found} for {replies} replies", "a list with one per reply")
    return values[i]


def dense_ranks(marks: Sequence[float]) -> list[int]:
    """Marks (less is better) as ranks from 0; equal marks share one."""
    place = {mark: i for i, mark in enumerate(sorted(set(marks)))}
    return [place[mark] for mark in marks]
