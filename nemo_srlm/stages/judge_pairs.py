"""judge_pairs (judge_training.method): pairs of judgements of one response that join the iteration's DPO.

Writes pairs.jsonl (PreferencePair; the prompt is the judge's input) and dropped.jsonl ({"prompt_id", "reason"}): "no_spread" (no
response has two different scores), "undecided", "too_long" (see judge/meta.py).
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.methods import JudgeTrainingSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_json, read_json_lines, read_records, write_json, write_json_lines, write_records
from nemo_srlm.core.records import PreferencePair, content_id
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.core.terminal import say
from nemo_srlm.data import templates
from nemo_srlm.judge import meta
from nemo_srlm.judge.meta import Battle, Draw
from nemo_srlm.judge.pair_files import DROPPED, PAIRS
from nemo_srlm.stages.common.comparing import ORDERS, VERDICTS, Verdict
from nemo_srlm.stages.common.judge_pairs import Judged, comparison_id, judged_prompts

COUNTS = "counts.json"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    names = [
        "prompts",
        "candidates",
        "judge",
        "pairs",
        *(["meta_judge"] if cfg.judge_training.method == "meta" else []),
    ]
    return {name: Ref(name, iteration) for name in names}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = identity(cfg.judge_training)
    own.pop("template")  # the meta-judge's, of which its verdicts are an input
    return {"judge_training": own, "judge_template": templates.load(cfg.judge.template, templates.JUDGE)}


def _battles(verdicts: Mapping[str, Verdict], one: Judged) -> list[Battle]:
    assert one.judgement is not None
    found = []
    for a, b in meta.compared(one.judgement):
        first, second = (verdicts[content_id(comparison_id(one.judgement, a, b), order)] for order in ORDERS)
        found.append(Battle(a, b, first.verdict, second.verdict))
    return found


def _choose(
    section: JudgeTrainingSection, one: Judged, battles: list[Battle], weights: tuple[float, float]
) -> tuple[Draw, Draw] | str:
    assert one.judgement is not None
    found = meta.draws(one.judgement)
    if section.method == "any_draw":
        return meta.any_two(found, one.judgement.id)
    won = meta.wins(battles, len(found), weights)
    return meta.best_and_worst(
        found, meta.elo(won) if section.rank == "elo" else meta.win_shares(won), section.max_words
    )


def _run(ctx: Context) -> None:
    section, counts = ctx.cfg.judge_training, Counter[str]()
    verdicts = {}
    if "meta_judge" in ctx.inputs:
        verdicts = {v.id: v for v in read_records(ctx.inputs["meta_judge"] / VERDICTS, Verdict)}
    judged = list(judged_prompts(ctx))
    battles = [_battles(verdicts, one) if verdicts and one.judgement else [] for one in judged]
    weights = meta.position_weights([battle for some in battles for battle in some])
    pairs: list[PreferencePair] = []
    dropped = []
    for one, mine in zip(judged, battles, strict=True):
        chosen = _choose(section, one, mine, weights) if one.judgement else "no_spread"
        if isinstance(chosen, str):
            counts[f"dropped_{chosen}"] += 1
            dropped.append({"prompt_id": one.prompt_id, "reason": chosen})
        else:
            assert one.judgement is not None
            pairs.append(meta.to_pair(one.judgement, one.text, *chosen))
    num_responses = sum(1 for _ in read_json_lines(ctx.inputs["pairs"] / PAIRS))
    kept = meta.guarded(pairs, section, num_responses, counts)
    write_records(ctx.dir / PAIRS, kept)
    write_json_lines(ctx.dir / DROPPED, dropped)
    raising = {f"rising_{name}": sum(map(meta.rises, some)) for name, some in (("found", pairs), ("kept", kept))}
    write_json(ctx.dir / COUNTS, {**counts, "prompts": len(judged), "found": len(pairs), "pairs": len(kept), **raising,
                                  "weight_first": weights[0]})  # fmt: skip


def _finalize(ctx: Context) -> dict[str, Any]:
    """Counts by reason. No pair at all is a warning: the iteration goes on with the pairs of responses."""
    counts: dict[str, Any] = read_json(ctx.dir / COUNTS)
    if not counts["pairs"]:
        say(
            f"warning: {ctx.dir}: not one judge pair ({counts}); the judge is not trained in this iteration", error=True
        )
    return {**counts, "summary": f"{counts['pairs']} judge pairs, {counts['rising_kept']} prefer the higher score"}


STAGE = Stage("judge_pairs", "cpu", _inputs, _identity, _run, _finalize)
