"""pairs: candidates and their judgements -> preference pairs, in one streamed pass with flat memory.

Prompts, candidates and judgements are files in one and the same prompt order (their stages merge them so), and are read
side by side, one prompt at a time. Writes pairs.jsonl (PreferencePair) and dropped.jsonl ({"prompt_id", "reason"}): a
prompt is in exactly one of them. Arms: "self" and "sft_only"; "random" (judge scores shuffled within a prompt); "oracle"
(judgements come from the stage `oracle_scores`, which this file knows by name only); "given" (preference files, no judge).
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from nemo_srlm import manifest, pairing, preferences, store
from nemo_srlm.config import Config, identity
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.judging import aggregate, required_valid
from nemo_srlm.pairing import Scored
from nemo_srlm.stage import Context, Ref, Stage
from nemo_srlm.store import read_json, write_json

ARMS = ("self", "random", "sft_only", "oracle", "given")
COUNTS, PAIRS, DROPPED = "counts.json", "pairs.jsonl", "dropped.jsonl"
REPORT_EVERY = 2000  # prompts between two looks at the clock
BLOCK = 1 << 18  # bytes that are decoded at once


# The fields that are needed here, of records.Prompt, Candidate and Judgement. msgspec passes over the texts of a
# judgement without building them: with the standard library's json this stage takes four times as long.
class _Prompt(msgspec.Struct, gc=False):
    id: str
    text: str


class _Candidate(msgspec.Struct, gc=False):
    id: str
    prompt_id: str
    text: str
    error: str


class _Judgement(msgspec.Struct, gc=False):
    id: str
    prompt_id: str
    scores: tuple[float | None, ...]
    error: str


S = TypeVar("S", _Prompt, _Candidate, _Judgement)
R = TypeVar("R", _Candidate, _Judgement)


class _Rows(Generic[S]):
    """The rows of a JSONL file, decoded a block of lines at a time; says where it is."""

    def __init__(self, path: Path, cls: type[S]) -> None:
        self.path, self.position = path, 0  # bytes read so far
        self._decoder: msgspec.json.Decoder[S] = msgspec.json.Decoder(cls)

    def __iter__(self) -> Iterator[S]:
        line = 0
        try:
            with self.path.open("rb") as file:
                while block := file.read(BLOCK) + file.readline():
                    self.position += len(block)
                    try:
                        rows = self._decoder.decode_lines(block)
                    except msgspec.MsgspecError:
                        raise self._broken(block, line) from None
                    line += len(rows)
                    yield from rows
        except FileNotFoundError as error:
            raise DataError(self.path, "no such file", remedy="run the stage that writes it") from error

    def _broken(self, block: bytes, before: int) -> DataError:
        """Names the first line of a block that is no row."""
        for number, line in enumerate(block.split(b"\n"), before + 1):
            try:
                self._decoder.decode(line)
            except msgspec.MsgspecError as error:
                return DataError(f"{self.path}:{number}", f"{error}", "a record of this stage")
        raise AssertionError("every line of a broken block is whole")


class _ByPrompt(Generic[R]):
    """Consecutive rows of one prompt together, with one prompt of look-ahead."""

    def __init__(self, path: Path, cls: type[R]) -> None:
        self.path, self.number = path, 1  # line of the next row
        self._groups: Iterator[tuple[str, Iterator[R]]] = groupby(_Rows(path, cls), attrgetter("prompt_id"))
        self.next: tuple[str, Iterator[R]] | None = next(self._groups, None)

    def of(self, prompt_id: str) -> list[R]:
        """The next rows, when they belong to this prompt."""
        if self.next is None or self.next[0] != prompt_id:
            return []
        found = list(self.next[1])
        self.number += len(found)
        self.next = next(self._groups, None)
        return found


def prompts_with_scores(
    prompts: Path, candidates: Path, judgements: Path, min_valid: int
) -> Iterator[tuple[_Prompt, list[Scored], int]]:
    """(prompt, its candidates scored, bytes of `prompts` read), in prompt order.

    Raises DataError when a candidate has no judgement, or when the files are not in one order.
    """
    of_prompts = _Rows(prompts, _Prompt)
    of_candidates, of_judgements = _ByPrompt(candidates, _Candidate), _ByPrompt(judgements, _Judgement)
    for prompt in of_prompts:
        judged = {row.id: row for row in of_judgements.of(prompt.id)}
        scored = []
        for candidate in of_candidates.of(prompt.id):
            if candidate.error:
                scored.append(Scored(candidate.text, None))
            elif row := judged.get(candidate.id):
                scored.append(Scored(candidate.text, None if row.error else aggregate(row.scores, min_valid)))
            else:
                raise DataError(
                    f"{judgements}:{of_judgements.number}", f"no judgement on candidate {candidate.id} of {prompt.id}",
                    "one judgement a candidate, in the order of the prompts", "run the judge stage again",
                )  # fmt: skip
        yield prompt, scored, of_prompts.position
    for rows in (of_candidates, of_judgements):
        if rows.next is not None:
            raise DataError(
                f"{rows.path}:{rows.number}", f"a record of prompt {rows.next[0]}, which does not come here",
                f"the prompts of {prompts} in their order", "run the stage that writes it again",
            )  # fmt: skip


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    if cfg.run.arm == "given":
        return {}
    judge = "oracle_scores" if cfg.run.arm == "oracle" else "judge"
    return {name: Ref(judge if name == "judge" else name, iteration) for name in ("prompts", "candidates", "judge")}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    if cfg.run.arm not in ARMS:
        raise ConfigError("run.arm", repr(cfg.run.arm), f"one of {list(ARMS)}")
    pairing.check(cfg.pairs)
    own = identity(cfg.pairs)
    own["files"] = [manifest.file_digest(path) for path in preferences.files(cfg)] if cfg.run.arm == "given" else []
    return {
        "pairs": own,
        "arm": "self" if cfg.run.arm == "sft_only" else cfg.run.arm,  # they differ in what is done with the pairs
        "min_valid": required_valid(cfg.judge),
        "max_score": cfg.judge.max_score,
        "seed": cfg.run.seed if cfg.run.arm == "random" else None,
    }


def _run(ctx: Context) -> None:
    if ctx.cfg.run.arm == "given":
        counts: Counter[str] = Counter()
        store.write_records(ctx.dir / PAIRS, preferences.read_pairs(preferences.files(ctx.cfg), counts))
        (ctx.dir / DROPPED).write_text("", encoding="utf-8")
        write_json(ctx.dir / COUNTS, dict(sorted(counts.items())))
        return
    build(
        ctx,
        prompts=ctx.inputs["prompts"] / "prompts.jsonl",
        candidates=ctx.inputs["candidates"] / "candidates.jsonl",
        judgements=ctx.inputs["judge"] / "judgements.jsonl",
    )


def build(ctx: Context, prompts: Path, candidates: Path, judgements: Path) -> None:
    """One pass over the three files; pairs.jsonl and dropped.jsonl appear whole or not at all."""
    cfg, counts = ctx.cfg, Counter[str]()
    min_valid = 1 if cfg.run.arm == "oracle" else required_valid(cfg.judge)
    temporary = {name: ctx.dir / f".{name}.{os.getpid()}.tmp" for name in (PAIRS, DROPPED)}
    size, encoder = prompts.stat().st_size, msgspec.json.Encoder()
    with (
        temporary[PAIRS].open("wb", buffering=1 << 20) as pairs,
        temporary[DROPPED].open("w", encoding="utf-8") as dropped,
    ):
        for prompt, scored, position in prompts_with_scores(prompts, candidates, judgements, min_valid):
            counts["prompts"] += 1
            counts["candidates"] += len(scored)
            counts["eligible"] += len([None for candidate in scored if candidate.score is not None])
            found = _choose(scored, cfg, prompt.id)
            if isinstance(found, str):
                counts[f"dropped_{found}"] += 1
                dropped.write(json.dumps({"prompt_id": prompt.id, "reason": found}) + "\n")
            else:
                for record in pairing.to_records(prompt.id, prompt.text, found):
                    pairs.write(encoder.encode(record) + b"\n")  # as store.dump writes it, faster
                    counts["pairs"] += 1
                    counts["chosen_characters"] += len(record.chosen)
                    counts["rejected_characters"] += len(record.rejected)
            if counts["prompts"] % REPORT_EVERY == 0:
                ctx.progress.update(position, size, "bytes", pairs=counts["pairs"])
        for file in (pairs, dropped):
            file.flush()
            os.fsync(file.fileno())
    for name, path in temporary.items():
        os.replace(path, ctx.dir / name)
    write_json(ctx.dir / COUNTS, dict(sorted(counts.items())))
    ctx.progress.update(size, size, "bytes", pairs=counts["pairs"])


def _choose(scored: list[Scored], cfg: Config, prompt_id: str) -> pairing.Pairs | str:
    if cfg.pairs.pool_equal_texts:
        scored = pairing.pool_equal_texts(scored)
    if cfg.run.arm == "random":  # after pooling, so that both arms choose among the same candidates
        scored = pairing.permute_scores(scored, cfg.run.seed, prompt_id)
    return pairing.select(scored, cfg.pairs, cfg.judge.max_score)


def _finalize(ctx: Context) -> dict[str, Any]:
    """Counts by reason. Raises DataError when there is not one pair."""
    counts: dict[str, Any] = read_json(ctx.dir / COUNTS)
    reasons = {name: number for name, number in counts.items() if name.startswith("dropped_")}
    number = counts.pop("pairs") if "pairs" in counts else 0
    if not number:
        raise DataError(
            ctx.dir, f"not one preference pair ({reasons})", "prompts with two candidates of different text and score",
            "look at the judge's health in its manifest",
        )  # fmt: skip
    chosen, rejected = counts.pop("chosen_characters"), counts.pop("rejected_characters")
    return {
        **counts,
        "pairs": number,
        "chosen_characters_mean": chosen / number,
        "rejected_characters_mean": rejected / number,
        "summary": f"{number} pairs of {counts['prompts']} prompts",
    }


STAGE = Stage("pairs", "cpu", _inputs, _identity, _run, _finalize)
