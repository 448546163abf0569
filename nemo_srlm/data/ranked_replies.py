"""Preference files of several formats as ranked replies, to measure a judge against them.

Open Assistant exports (*.trees.jsonl, *.messages.jsonl), or rows of JSONL / parquet (also .gz) with
- `chosen` and `rejected` (see preference_pairs.py): two ranks; or
- `prompt` (or `instruction`) and a list `replies`, `responses`, `completions` or `answers` of two or more: texts with a
  parallel list `ranks` or `scores`, or objects with `text` (or `response`, `content`, `answer`) and `rank` (0 or 1 is the
  best), or a score: `score`, `rating`, `overall_score`, `score_overall` (more is better).
Equal scores are equal ranks. A row has one kind of mark and one list: ranks for some replies and scores for others, ranks that
contradict the scores beside them, and two lists are errors. Unranked replies, and rows with fewer than two ranked ones, are
left out and counted.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nemo_srlm.core.records import PreferencePair, RankedReply, content_id
from nemo_srlm.data.oasst import read_first_turns
from nemo_srlm.data.preference_pairs import COLUMNS, INPUTS, SYSTEM, finite_number, read_rows, refuse_columns, to_pair
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
    for where, row in read_rows(path, (*COLUMNS, "instruction", *LISTS, "ranks", "scores")):
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
    lists = {name: row[name] for name in LISTS if isinstance(row.get(name), list)}
    if len(filled := [name for name, replies in lists.items() if replies]) > 1:
        raise DataError(where, f"replies in {' and in '.join(filled)}", "one list of replies", "remove the others")
    listed = next((replies for replies in lists.values() if replies or not filled), None)
    if prompt is None or not prompt.strip() or listed is None:
        raise DataError(
            where, f"no ranked replies among {sorted(row)}",
            f"chosen and rejected, or prompt (instruction) and one of {', '.join(LISTS)}",
        )  # fmt: skip
    refuse_columns(row, (*SYSTEM, *INPUTS), where)
    texts, ranks, scores = [], [], []
    for i, reply in enumerate(listed):
        text, rank, score = _reply(row, reply, i, len(listed), where)
        unranked = rank is None and score is None
        if unranked or not text.strip():
            counts["dropped_unranked_replies" if unranked else "dropped_empty_replies"] += 1
            continue
        texts.append(text)
        ranks.append(rank)
        scores.append(score)
    return prompt, list(zip(texts, dense_ranks(_marks(ranks, scores, where)), strict=True))


def _marks(ranks: Sequence[float | None], scores: Sequence[float | None], where: str) -> Sequence[float]:
    """The ranks, or the scores where not every reply has a rank, with the sign turned: less is better. Raises DataError where
    neither orders all replies: a rank and a score are no numbers of one scale."""
    ranked = [rank for rank in ranks if rank is not None]
    turned = [-score for score in scores if score is not None]
    if len(ranks) not in (len(ranked), len(turned)):
        raise DataError(
            where, "a rank for some replies, a score for others", "one kind of mark for all replies of a row"
        )
    if len(ranked) < len(ranks):
        return turned
    if len(turned) == len(ranks):
        ordered = [mark for _, mark in sorted(zip(ranked, turned, strict=True))]
        if ordered != sorted(ordered):
            raise DataError(
                where, "ranks and scores that contradict each other", "scores that fall from the best rank (0 or 1) on",
                "remove the ranks or the scores",
            )  # fmt: skip
    return ranked


def _reply(
    row: dict[str, Any], reply: Any, i: int, num_replies: int, where: str
) -> tuple[str, float | None, float | None]:
    """(text, rank, score) of reply `i` of `num_replies`; None for a mark that it does not have."""
    if isinstance(reply, dict):
        text = next((reply[name] for name in TEXTS if isinstance(reply.get(name), str)), None)
        rank, score = reply.get("rank"), next((reply[name] for name in SCORES if reply.get(name) is not None), None)
    else:
        text = reply if isinstance(reply, str) else None
        rank, score = (_at(row.get(name), i, num_replies, name, where) for name in ("ranks", "scores"))
    if text is None:
        raise DataError(where, f"reply {i} has no text", f"a text, or an object with one of {', '.join(TEXTS)}")
    if rank is not None:
        number = finite_number(rank, f"the rank of reply {i}", where)
        if number < 0 or not number.is_integer():
            raise DataError(where, f"the rank of reply {i}: {rank}", "a whole number, 0 or 1 for the best")
        rank = number
    if score is not None:
        score = finite_number(_parsed(score), f"the score of reply {i}", where)
    return text, rank, score


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
