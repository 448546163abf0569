"""pairs: candidates and their judgements -> preference pairs.

Writes pairs.jsonl (PreferencePair) and dropped.jsonl ({"prompt_id", "reason"}): a prompt is in exactly one of them.
The scores are the judge's, or by pairs.score those of votes, a checker or a reward model. From iteration 2 on
pairs.consistency gives pairs a certainty (from the scores of judge_previous), and with pairs.rejected_from=m1 the rejected
responses are those of `anchors`.
Arms: "self" and "sft_only"; "random" (judge scores shuffled within a prompt, with pairs.balanced_control as many pairs in the
judge's order as against it); "oracle" (judgements come from the stage `oracle_scores`); "external" (external preference files, no
judge; without pairs whose prompt is held out, or nearly).
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.generation import of_iteration
from nemo_srlm.config.schema import Config
from nemo_srlm.config.score_scale import score_scale
from nemo_srlm.core import files
from nemo_srlm.core.files import read_json, write_json
from nemo_srlm.core.pipeline import has_anchors, has_single_scores, score_stage, uses_previous_judge
from nemo_srlm.core.records import item_seed
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.core.terminal import say
from nemo_srlm.data import preference_pairs
from nemo_srlm.data.near_copies import HeldOut
from nemo_srlm.errors import DataError
from nemo_srlm.judge.join import ScoredFiles, ScoredPrompt
from nemo_srlm.judge.pair_files import DROPPED, PAIRS, balance_orders, keep_number, set_certainty, write_pairs
from nemo_srlm.judge.pairing import Pairs, certainty, choose_pairs, differences, pool_equal_texts
from nemo_srlm.judge.scores import required_valid
from nemo_srlm.stages.common.seed_files import held_out_texts

COUNTS = "counts.json"
CERTAINTY = "certainty.json"  # with pairs.consistency


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    if cfg.run.arm == "external":
        return {"seed": Ref("seed", 0)}  # what is held out
    names = {"prompts": "prompts", "candidates": "candidates", "judge": score_stage(cfg)}
    names |= {"votes": "votes"} if cfg.pairs.score == "judge_vote" else {}
    names |= {"judge_previous": "judge_previous"} if uses_previous_judge(cfg, iteration) else {}
    names |= {name: name for name in ("anchors", "judge_anchors") if has_anchors(cfg, iteration)}
    return {name: Ref(stage, iteration) for name, stage in names.items()}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = identity(cfg.pairs)
    for name in ("per_iteration", "answer"):  # the answers are those of the stage votes
        own.pop(name, None)
    if iteration == 1:  # what begins with iteration 2
        own.pop("consistency", None)
        own.pop("rejected_from", None)
    if cfg.pairs.score != "judge_vote":
        own.pop("vote_weight", None)
    if most := of_iteration(cfg.pairs.per_iteration, iteration, 0):
        own["most"] = most
    if cfg.run.arm != "random":
        own.pop("balanced_control", None)
    if cfg.pairs.rule == "length_controlled":
        own["rho_of"] = "range"  # once it was a share of the scale: such pairs are others
    if cfg.pairs.score == "judge_vote":
        own["sum"] = "rounded"  # once sums that are equal could differ in their last digit, and were no tie
    if has_anchors(cfg, iteration) and cfg.pairs.pool_equal_texts:
        own["pooled"] = "anchors, too"  # once candidates alone
    external = preference_pairs.preference_files(cfg) if cfg.run.arm == "external" else []
    own["files"] = [files.file_digest(path) for path in external]
    return {
        "pairs": own,
        "arm": "self"
        if cfg.run.arm == "sft_only"
        else identity(cfg.run)["arm"],  # sft_only makes the same pairs as self
        "min_valid": _min_valid(cfg),
        "max_score": score_scale(cfg),
        "seed": _shuffle_seed(cfg),
    }


def _run(ctx: Context) -> None:
    cfg = ctx.cfg
    certainties: dict[str, float | None] = {}
    judged: dict[str, float] = {}  # of the balanced control: pair id -> the judge's difference
    balanced = cfg.pairs.balanced_control and cfg.run.arm == "random"
    if cfg.run.arm == "external":
        counts: Counter[str] = Counter()
        apart = HeldOut(held_out_texts(ctx.inputs["seed"]), cfg.seed.rouge_max)
        pairs = preference_pairs.read_pairs(preference_pairs.preference_files(cfg), counts, apart)
        files.write_records(ctx.dir / PAIRS, pairs)
        (ctx.dir / DROPPED).write_text("", encoding="utf-8")
    else:

        def choose(one: ScoredPrompt) -> Pairs | str:
            if "judge_previous" in ctx.inputs:
                pooled = pool_equal_texts(one.candidates) if cfg.pairs.pool_equal_texts else one.candidates
                certainties[one.prompt.id] = certainty(pooled)
            found = choose_pairs(one.candidates, one.prompt.id, cfg.pairs, _shuffle_seed(cfg), one.anchors)
            if balanced and not isinstance(found, str):
                judged.update(differences(one.prompt.id, one.candidates, found))
            return found

        weighed = score_scale(cfg) if cfg.pairs.weight == "margin" else None
        counts = write_pairs(_scored_files(ctx), _min_valid(cfg), choose, ctx.dir, partial(_report, ctx), weighed)
    if most := of_iteration(cfg.pairs.per_iteration, ctx.iteration, 0):
        counts["asked"] = most
        keep_number(ctx.dir, most, counts)
    if balanced:  # of the pairs that stay
        balance_orders(ctx.dir, judged, item_seed(cfg.run.seed, "random_arm", "orders", ctx.iteration), counts)
    if "judge_previous" in ctx.inputs:  # of the pairs that stay
        write_json(ctx.dir / CERTAINTY, set_certainty(ctx.dir, certainties, cfg.pairs.consistency == "prompt"))
    write_json(ctx.dir / COUNTS, dict(sorted(counts.items())))


def _scored_files(ctx: Context) -> ScoredFiles:
    def judgements(name: str) -> Path | None:
        return ctx.inputs[name] / "judgements.jsonl" if name in ctx.inputs else None

    of_anchors = judgements("judge_anchors")
    return ScoredFiles(
        prompts=ctx.inputs["prompts"] / "prompts.jsonl",
        candidates=ctx.inputs["candidates"] / "candidates.jsonl",
        judgements=ctx.inputs["judge"] / "judgements.jsonl",
        votes=judgements("votes"),
        vote_weight=ctx.cfg.pairs.vote_weight,
        previous=judgements("judge_previous"),
        anchors=None if of_anchors is None else (ctx.inputs["anchors"] / "candidates.jsonl", of_anchors),
    )


def _min_valid(cfg: Config) -> int:
    """Scores that a candidate needs."""
    return 1 if has_single_scores(cfg) else required_valid(cfg.judge)


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
    if (ctx.dir / CERTAINTY).exists() and read_json(ctx.dir / CERTAINTY)["unknown"] == number:
        words = "two judges have no two candidates in common, so no pair has a certainty, and all have 1"
        say(f"warning: {ctx.dir}: {words}", error=True)
    chosen, rejected = counts.pop("chosen_characters"), counts.pop("rejected_characters")
    return {
        **counts,
        "pairs": number,
        **({"certainty": read_json(ctx.dir / CERTAINTY)} if (ctx.dir / CERTAINTY).exists() else {}),
        "chosen_characters_mean": chosen / number,
        "rejected_characters_mean": rejected / number,
        "summary": f"{number} pairs of {counts['prompts']} prompts"
        + (f", {counts['asked']} asked" if counts.get("asked", 0) > number else ""),
    }


STAGE = Stage("pairs", "cpu", _inputs, _identity, _run, _finalize)
