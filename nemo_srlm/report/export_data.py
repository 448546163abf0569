"""`nemo-srlm export-data`: what a run made, as data sets in the forms that others read, with a data card.

    preferences_ultrafeedback  prompt, prompt_id, chosen, rejected, messages, both scores (UltraFeedback binarized)
    preferences_trl            prompt, chosen, rejected as messages, with both scores (TRL's conversational, explicit prompt)
                               and, where a pair weighs differently in the loss, its weight and certainty
    ift, eft                   messages, kind, source (chat form); conversations of seed.chat_files are in ift

Each is written as JSONL and, through `datasets`, as parquet; preferences have a split per iteration. Reading either form of
the pairs back with pairs.files gives the same pairs, byte for byte (tests/unit/test_export_data.py).
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.core.files import read_json_lines, read_records, write_json_lines
from nemo_srlm.core.records import Conversation, PreferencePair, SftExample
from nemo_srlm.core.stage import Ref, check_outside_stages, check_unchanged
from nemo_srlm.data.preference_pairs import WEIGHTS
from nemo_srlm.errors import DataError
from nemo_srlm.report import cards
from nemo_srlm.report.run_files import RunFiles

Row = dict[str, Any]


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def ultrafeedback(pair: PreferencePair) -> Row:
    """A row as HuggingFaceH4/ultrafeedback_binarized has it."""
    asked = message("user", pair.prompt)
    chosen, rejected = ([asked, message("assistant", text)] for text in (pair.chosen, pair.rejected))
    return {
        "prompt": pair.prompt, "prompt_id": pair.prompt_id, "chosen": chosen, "rejected": rejected, "messages": chosen,
        "score_chosen": pair.chosen_score, "score_rejected": pair.rejected_score, **_weights(pair),
    }  # fmt: skip


def trl(pair: PreferencePair) -> Row:
    """A row of TRL's preference type, conversational with an explicit prompt."""
    return {
        "prompt": [message("user", pair.prompt)],
        "chosen": [message("assistant", pair.chosen)],
        "rejected": [message("assistant", pair.rejected)],
        "score_chosen": pair.chosen_score, "score_rejected": pair.rejected_score, **_weights(pair),
    }  # fmt: skip


def _weights(pair: PreferencePair) -> Row:
    """The columns of pairs that weigh differently; none for the others."""
    return {name: value for name in WEIGHTS if (value := getattr(pair, name)) != 1.0}


def chat(example: SftExample) -> Row:
    turns = [message("user", example.prompt), message("assistant", example.response)]
    return {"messages": turns, "kind": example.kind, "source": example.source}


FORMS: dict[str, Callable[[PreferencePair], Row]] = {"preferences_ultrafeedback": ultrafeedback, "preferences_trl": trl}


def export_data(run_dir: Path, out: Path) -> cards.DataSets:
    """Writes the data sets of a run to `out`: a folder for each, and README.md, the data card.

    Returns data set -> split -> number of rows. Raises DataError where `out` is not empty, and where nothing is finished;
    LostError where a finished stage's files are not as it left them.
    """
    files = RunFiles(run_dir)
    if out.exists() and any(out.iterdir()):
        raise DataError(out, "is not empty", "a new folder", "name another with --out, or remove this one")
    check_outside_stages(out)
    pairs = [Ref("pairs", t) for t in range(1, files.cfg.iterations + 1)]
    check_unchanged(run_dir, [*pairs, Ref("seed", 0), Ref("eft", 0)])  # what was lost must not look unfinished
    found: cards.DataSets = {}
    for name, split, rows in _all(files):
        number = _write(out / name, split, rows)
        found.setdefault(name, {})[split] = number
    if not found:
        raise DataError(run_dir, "neither seed data nor preference pairs are finished", "a run with finished stages")
    write_atomic(out / "README.md", cards.data_card(files, found))
    return found


def _all(files: RunFiles) -> Iterator[tuple[str, str, Iterable[Row]]]:
    """(data set, split, rows) of everything that is finished."""
    for t in range(1, files.cfg.iterations + 1):
        if pairs := files.path(t, "pairs", "pairs.jsonl"):
            for name, form in FORMS.items():
                yield name, f"iteration_{t}", (form(pair) for pair in read_records(pairs, PreferencePair))
    if files.path(0, "seed", "ift.jsonl"):
        yield "ift", "train", _ift(files)
    if eft := files.path(0, "eft", "eft_train.jsonl"):
        yield "eft", "train", (chat(example) for example in read_records(eft, SftExample))


def _ift(files: RunFiles) -> Iterator[Row]:
    if path := files.path(0, "seed", "ift.jsonl"):
        yield from (chat(example) for example in read_records(path, SftExample))
    if path := files.path(0, "seed", "conversations.jsonl"):
        for talk in read_records(path, Conversation):
            yield {"messages": talk.messages(), "kind": "ift", "source": talk.source}


def _write(folder: Path, split: str, rows: Iterable[Row]) -> int:
    """Writes `split`.jsonl and `split`.parquet; returns the number of rows. No parquet without a row.

    The JSONL is the project's own: `datasets` writes numbers with ten digits. The parquet is read from it.
    """
    from datasets import Dataset, disable_progress_bars

    folder.mkdir(parents=True, exist_ok=True)
    lines, cache = folder / f"{split}.jsonl", folder / ".cache"
    write_json_lines(lines, rows)
    number = sum(1 for _ in read_json_lines(lines))
    if number:
        disable_progress_bars()
        made = Dataset.from_generator(
            lambda: (row for _, row in read_json_lines(lines)),
            features=_features(folder.name, lines),
            cache_dir=str(cache),
        )
        made.to_parquet(folder / f"{split}.parquet")
        del made  # it maps files of the cache
        shutil.rmtree(cache, ignore_errors=True)
    return number


def _features(name: str, lines: Path) -> Any:
    """The columns with their types: a split without a single score still has a column of numbers. Those of weights only where
    a row of the file `lines` has one."""
    from datasets import Features, List, Value

    text, number = Value("string"), Value("float64")
    talk = List({"role": text, "content": text})
    scores = {"score_chosen": number, "score_rejected": number}
    scores |= {name: number for name in WEIGHTS if any(name in row for _, row in read_json_lines(lines))}
    return Features({
        "preferences_ultrafeedback": {
            "prompt": text, "prompt_id": text, "chosen": talk, "rejected": talk, "messages": talk, **scores,
        },
        "preferences_trl": {"prompt": talk, "chosen": talk, "rejected": talk, **scores},
    }.get(name, {"messages": talk, "kind": text, "source": text}))  # fmt: skip
