"""Writes the preference pairs of an iteration, and the prompts without one, in one streamed pass over three files."""

import dataclasses
import hashlib
import json
import math
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from nemo_srlm.config.atomic import replacing, write_atomic
from nemo_srlm.core.files import read_json_lines, read_records, read_typed_lines, write_records
from nemo_srlm.core.records import PreferencePair, content_id
from nemo_srlm.judge.join import ScoredFiles, ScoredPrompt, prompts_with_scores
from nemo_srlm.judge.pairing import Pairs, to_records

PAIRS, DROPPED = "pairs.jsonl", "dropped.jsonl"
REPORT_EVERY = 2000  # prompts between two progress reports


@dataclass(frozen=True)
class Dropped:
    """A line of dropped.jsonl."""

    prompt_id: str
    reason: str


def read_dropped(path: Path) -> Iterator[Dropped]:
    """The prompts without a pair; none where there is no file. Raises DataError (file:line)."""
    if os.path.lexists(path):
        yield from read_typed_lines(path, Dropped)


def set_certainty(directory: Path, found: Mapping[str, float | None], each: bool) -> dict[str, float]:
    """Writes the certainty of each pair into pairs.jsonl: its prompt's with `each`, else the mean over the pairs, as CREAM does.

    found: prompt id -> certainty (None: not known, such a pair gets the mean). Returns {"mean", "unknown": number of pairs}.
    """
    records = list(read_records(directory / PAIRS, PreferencePair))
    known = [value for pair in records if (value := found[pair.prompt_id]) is not None]
    mean = math.fsum(known) / len(known) if known else 1.0

    def certainty(pair: PreferencePair) -> float:
        own = found[pair.prompt_id] if each else None
        return mean if own is None else own

    write_records(directory / PAIRS, (dataclasses.replace(pair, certainty=certainty(pair)) for pair in records))
    return {"mean": mean, "unknown": len(records) - len(known)}


def keep_number(directory: Path, number: int, counts: Counter[str]) -> None:
    """Keeps `number` pairs of pairs.jsonl, chosen by a hash of the pair, in their order.

    A prompt that loses its last pair goes to dropped.jsonl ("not_needed"); `counts` are those of the pairs that stay.
    """
    records = list(read_records(directory / PAIRS, PreferencePair))
    if len(records) <= number:
        return
    order = sorted(range(len(records)), key=lambda i: hashlib.sha256(f"keep {records[i].id}".encode()).digest())
    kept = [records[i] for i in sorted(order[:number])]
    left = {pair.prompt_id for pair in kept}
    without = dict.fromkeys(pair.prompt_id for pair in records if pair.prompt_id not in left)
    dropped = [row for _, row in read_json_lines(directory / DROPPED)]
    dropped += [{"prompt_id": prompt_id, "reason": "not_needed"} for prompt_id in without]
    write_atomic(directory / DROPPED, "".join(json.dumps(row) + "\n" for row in dropped))
    write_records(directory / PAIRS, kept)
    counts["dropped_not_needed"] = len(without)
    counts["pairs"], counts["pairs_not_needed"] = number, len(records) - number
    _count_characters(kept, counts)


def balance_orders(directory: Path, judged: Mapping[str, float], seed: int, counts: Counter[str]) -> None:
    """Of the pairs of pairs.jsonl, sorted by prompt, every second one stands in the judge's order, the others against it.

    A pair in the other order is turned round: the two scores change places, which is a permutation, too. Neighbours in
    the order of the prompts are alike, so that each kind of prompt is balanced in itself. judged: pair id -> the judge's score
    of its chosen response minus that of its rejected one, before any permutation; pairs of equal ones stay as they are.
    seed: of which order is the first. `counts` get how many pairs have which order.
    """
    records = list(read_records(directory / PAIRS, PreferencePair))
    in_order = random.Random(seed).random() < 0.5
    for i in sorted(range(len(records)), key=lambda i: (records[i].prompt, records[i].id)):
        pair = records[i]
        if not (difference := judged[pair.id]):
            counts["equal_for_the_judge"] += 1
            continue
        counts["in_the_judges_order" if in_order else "against_the_judges_order"] += 1
        if (difference > 0) != in_order:
            turned = content_id("pair", pair.prompt_id, pair.rejected, pair.chosen)
            records[i] = dataclasses.replace(pair, id=turned, chosen=pair.rejected, rejected=pair.chosen)
        in_order = not in_order
    write_records(directory / PAIRS, records)
    _count_characters(records, counts)


def _count_characters(pairs: list[PreferencePair], counts: Counter[str]) -> None:
    counts["chosen_characters"] = sum(len(pair.chosen) for pair in pairs)
    counts["rejected_characters"] = sum(len(pair.rejected) for pair in pairs)


def write_pairs(
    files: ScoredFiles,
    min_valid: int,
    choose: Callable[[ScoredPrompt], Pairs | str],
    directory: Path,
    report: Callable[[int, int, int], None],
    scale: float | None = None,
) -> Counter[str]:
    """Writes pairs.jsonl (PreferencePair) and dropped.jsonl ({"prompt_id", "reason"}), whole or not at all.

    A candidate needs `min_valid` parsed draws. `choose`: a prompt with its scored candidates -> its pairs, or the
    reason for none. `report`: (bytes of the prompts read, of how many, pairs so far). `scale`: see pairing.to_records.
    Returns the counts. Raises DataError where the files do not match.
    """
    counts = Counter[str]()
    size, encoder = files.prompts.stat().st_size, msgspec.json.Encoder()
    with (
        replacing(directory / DROPPED) as new_dropped,
        replacing(directory / PAIRS) as new_pairs,
        new_pairs.open("wb", buffering=1 << 20) as pairs,
        new_dropped.open("w", encoding="utf-8") as dropped,
    ):
        for one in prompts_with_scores(files, min_valid):
            prompt, scored = one.prompt, one.candidates
            counts["prompts"] += 1
            counts["candidates"] += len(scored)
            counts["eligible"] += len([None for candidate in scored if candidate.score is not None])
            found = choose(one)
            if isinstance(found, str):
                counts[f"dropped_{found}"] += 1
                dropped.write(json.dumps({"prompt_id": prompt.id, "reason": found}) + "\n")
            else:
                for record in to_records(prompt.id, prompt.text, found, scale):
                    pairs.write(encoder.encode(record.to_json()) + b"\n")  # the bytes of core.files.dump, faster
                    counts["pairs"] += 1
                    counts["chosen_characters"] += len(record.chosen)
                    counts["rejected_characters"] += len(record.rejected)
            if counts["prompts"] % REPORT_EVERY == 0:
                report(one.position, size, counts["pairs"])
    report(size, size, counts["pairs"])
    return counts
