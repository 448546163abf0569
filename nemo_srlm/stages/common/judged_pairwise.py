"""judge.shape=pairwise in the stage judge: candidates of a prompt against each other in both orders (verdicts.jsonl, Verdict),
and the judgements that follow (judgements.jsonl, Judgement, in the candidates' order)."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.records import Candidate, Judgement, Prompt, content_id
from nemo_srlm.core.stage import Context
from nemo_srlm.errors import DataError
from nemo_srlm.evaluate import compare_template, pairwise
from nemo_srlm.evaluate.headtohead import Outcome, outcome
from nemo_srlm.stages.common.comparing import Pairing, compare, merge_verdicts
from nemo_srlm.stages.common.generating import usage_metrics
from nemo_srlm.stages.common.judged_candidates import candidates_file
from nemo_srlm.stages.common.judging import JUDGEMENTS, check_usable, checked_health


def _by_prompt(ctx: Context) -> Iterator[tuple[str, list[Candidate]]]:
    for prompt_id, group in groupby(read_records(candidates_file(ctx), Candidate), key=lambda c: c.prompt_id):
        yield prompt_id, list(group)


def _pairings(ctx: Context) -> Iterator[Pairing]:
    prompts = {p.id: p for p in read_records(ctx.inputs["prompts"] / "prompts.jsonl", Prompt)}
    for prompt_id, candidates in _by_prompt(ctx):
        for ours, theirs in pairwise.duels(candidates):
            yield Pairing(content_id("duel", ours.id, theirs.id), "", prompts[prompt_id], ours, theirs)


def run(ctx: Context) -> None:
    judge = ctx.inputs["model"] / "hf" if "model" in ctx.inputs else Path()  # none: an endpoint judges
    compare(ctx, "judge", _pairings(ctx), judge, compare_template.load(ctx.cfg.judge.compare_template))


def finalize(ctx: Context) -> dict[str, Any]:
    """Writes both files. Returns the health of the judge, whose draws are the candidates' scores, and the verdicts' counts."""
    pairings = list(_pairings(ctx))
    verdicts = merge_verdicts(ctx, pairings)
    outcomes: dict[str, list[tuple[Candidate, Candidate, Outcome]]] = {}
    counts, orders = Counter[str](), Counter[str]()
    for pairing, (first, second) in zip(pairings, verdicts, strict=True):
        assert first is not None, "candidates that were not made are not compared"
        assert second is not None, "both orders are asked"
        found = outcome(first.verdict, second.verdict)
        outcomes.setdefault(pairing.prompt.id, []).append((pairing.ours, pairing.theirs, found))
        counts.update(v.verdict or ("error" if v.error else "unparsed") for v in (first, second))
        orders["judged" if found != "unjudged" else "unjudged"] += 1
        orders["contradicting"] += first.verdict == second.verdict and first.verdict in ("A", "B")
    reason = next((v.error for pair in verdicts for v in pair if v and v.error), "")
    not_made = (
        f"{counts['error']} of {2 * len(pairings)} comparisons were not made, the first: {reason}" if reason else ""
    )
    if pairings and counts["error"] == 2 * len(pairings):
        raise DataError(
            ctx.dir, not_made, "verdicts", "mend the cause, remove the directory and run the same command again"
        )
    score = ctx.cfg.judge.max_score
    made = [j for i, cs in _by_prompt(ctx) for j in pairwise.judgements(cs, outcomes.get(i, ()), score)]
    write_records(ctx.dir / JUDGEMENTS, made)
    single = dataclasses.replace(ctx.cfg.judge, min_valid=1)
    health = checked_health(ctx, read_records(ctx.dir / JUDGEMENTS, Judgement), ctx.cfg.judge.alarm_stops, single)
    check_usable(ctx, health, not_made)
    return {
        **health, "comparisons": len(pairings), "verdicts": dict(sorted(counts.items())), "orders": dict(sorted(orders.items())),
        "engine": usage_metrics(ctx),
        "summary": f"{len(pairings)} comparisons in both orders, {orders['contradicting']} contradict themselves, "
        f"{orders['unjudged']} without a verdict",
    }  # fmt: skip
