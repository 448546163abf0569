"""pairs: candidates and their judgements -> preference pairs.

Writes pairs.jsonl (PreferencePair) and dropped.jsonl ({"prompt_id", "reason"}): a prompt is in exactly one of them.
Arms: "self" and "sft_only"; "random" (judge scores shuffled within a prompt); "oracle" (judgements come from the stage
`oracle_scores`); "external" (external preference files, no judge; without pairs whose prompt is held out, or nearly).
"""

from collections import Counter
from functools import partial
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.generation import of_iteration
from nemo_srlm.config.schema import Config
from nemo_srlm.core import files
from nemo_srlm.core.files import read_json, write_json
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.data import preference_pairs
from nemo_srlm.data.near_copies import HeldOut
from nemo_srlm.errors import DataError
from nemo_srlm.judge.pair_files import DROPPED, PAIRS, ScoredFiles, keep_number, write_pairs
from nemo_srlm.judge.pairing import choose_pairs
from nemo_srlm.judge.scores import required_valid
from nemo_srlm.stages.common.seed_files import held_out_texts

COUNTS = "counts.json"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    if cfg.run.arm == "external":
        return {"seed": Ref("seed", 0)}  # what is held out
    judge = "oracle_scores" if cfg.run.arm == "oracle" else "judge"
    return {name: Ref(judge if name == "judge" else name, iteration) for name in ("prompts", "candidates", "judge")}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = identity(cfg.pairs)
    own.pop("per_iteration", None)
    if most := of_iteration(cfg.pairs.per_iteration, iteration, 0):
        own["most"] = most
    external = preference_pairs.preference_files(cfg) if cfg.run.arm == "external" else []
    own["files"] = [files.file_digest(path) for path in external]
    return {
        "pairs": own,
        "arm": "self"
        if cfg.run.arm == "sft_only"
        else identity(cfg.run)["arm"],  # sft_only makes the same pairs as self
        "min_valid": required_valid(cfg.judge),
        "max_score": cfg.judge.max_score,
        "seed": _shuffle_seed(cfg),
    }


def _run(ctx: Context) -> None:
    cfg = ctx.cfg
    if cfg.run.arm == "external":
        counts: Counter[str] = Counter()
        apart = HeldOut(held_out_texts(ctx.inputs["seed"]), cfg.seed.rouge_max)
        pairs = preference_pairs.read_pairs(preference_pairs.preference_files(cfg), counts, apart)
        files.write_records(ctx.dir / PAIRS, pairs)
        (ctx.dir / DROPPED).write_text("", encoding="utf-8")
    else:
        scored = ScoredFiles(
            prompts=ctx.inputs["prompts"] / "prompts.jsonl",
            candidates=ctx.inputs["candidates"] / "candidates.jsonl",
            judgements=ctx.inputs["judge"] / "judgements.jsonl",
        )
        min_valid = 1 if cfg.run.arm == "oracle" else required_valid(cfg.judge)
        choose = partial(
            choose_pairs, section=cfg.pairs, max_score=cfg.judge.max_score, shuffle_seed=_shuffle_seed(cfg)
        )
        counts = write_pairs(scored, min_valid, choose, ctx.dir, partial(_report, ctx))
    if most := of_iteration(cfg.pairs.per_iteration, ctx.iteration, 0):
        counts["asked"] = most
        keep_number(ctx.dir, most, counts)
    write_json(ctx.dir / COUNTS, dict(sorted(counts.items())))


def _shuffle_seed(cfg: Config) -> int | None:
    return cfg.run.seed if cfg.run.arm == "random" else None


def _report(ctx: Context, done: int, total: int, pairs: int) -> None:
    ctx.progress.update(done, total, "bytes", pairs=pairs)


def _finalize(ctx: Context) -> dict[str, Any]:
    """Counts by reason. Raises DataError when there is not one pair."""
    counts: dict[str, Any] = read_json(ctx.dir / COUNTS)
    reasons = {name: number for name, number in counts.items() if name.startswith("dropped_")}
    number = counts.pop("pairs") if "pairs" in counts else 0
    if not number:
        external = ctx.cfg.run.arm == "external"
        raise DataError(
            ctx.dir, f"not one preference pair ({reasons})",
            "rows of pairs.files with different texts" if external else "prompts with two candidates of different text and score",
            "look at the files" if external else "look at the judge's health in its manifest",
        )  # fmt: skip
    chosen, rejected = counts.pop("chosen_characters"), counts.pop("rejected_characters")
    return {
        **counts,
        "pairs": number,
        "chosen_characters_mean": chosen / number,
        "rejected_characters_mean": rejected / number,
        "summary": f"{number} pairs of {counts['prompts']} prompts"
        + (f", {counts['asked']} asked" if counts.get("asked", 0) > number else ""),
    }


STAGE = Stage("pairs", "cpu", _inputs, _identity, _run, _finalize)
