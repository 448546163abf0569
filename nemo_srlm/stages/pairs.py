"""pairs: candidates and their judgements -> preference pairs, in one streamed pass with flat memory.

Prompts, candidates and judgements are files in one and the same prompt order (their stages merge them so), and are read
side by side, one prompt at a time. Writes pairs.jsonl (PreferencePair) and dropped.jsonl ({"prompt_id", "reason"}): a
prompt is in exactly one of them. Arms: "self" and "sft_only"; "random" (judge scores shuffled within a prompt); "oracle"
(judgements come from the stage `oracle_scores`, which this file knows by name only); "external" (preference files, no judge).
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core import files
from nemo_srlm.core import files as core_files
from nemo_srlm.core.files import read_json, write_json
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.data import preference_pairs
from nemo_srlm.errors import DataError
from nemo_srlm.judge import pairing
from nemo_srlm.judge.join import prompts_with_scores
from nemo_srlm.judge.pairing import Scored
from nemo_srlm.judge.scores import required_valid

COUNTS, PAIRS, DROPPED = "counts.json", "pairs.jsonl", "dropped.jsonl"


REPORT_EVERY = 2000  # prompts between two looks at the clock


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    if cfg.run.arm == "external":
        return {}
    judge = "oracle_scores" if cfg.run.arm == "oracle" else "judge"
    return {name: Ref(judge if name == "judge" else name, iteration) for name in ("prompts", "candidates", "judge")}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = identity(cfg.pairs)
    own["files"] = (
        [core_files.file_digest(path) for path in preference_pairs.files(cfg)] if cfg.run.arm == "external" else []
    )
    return {
        "pairs": own,
        "arm": "self"
        if cfg.run.arm == "sft_only"
        else identity(cfg.run)["arm"],  # sft_only makes the same pairs as self
        "min_valid": required_valid(cfg.judge),
        "max_score": cfg.judge.max_score,
        "seed": cfg.run.seed if cfg.run.arm == "random" else None,
    }


def _run(ctx: Context) -> None:
    if ctx.cfg.run.arm == "external":
        counts: Counter[str] = Counter()
        files.write_records(ctx.dir / PAIRS, preference_pairs.read_pairs(preference_pairs.files(ctx.cfg), counts))
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
