"""meta_judge (judge_training.method=meta): the policy compares its own judgements of one response, two by two in both orders.

An item is one comparison in one order (verdicts.jsonl, Verdict). Of a prompt the response whose scores differ most is taken
(Meta-Rewarding, arXiv 2407.19594).
"""

from collections import Counter
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.pipeline import export_ref
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.errors import DataError
from nemo_srlm.evaluate import compare_template
from nemo_srlm.stages.common.comparing import compare, merge_verdicts
from nemo_srlm.stages.common.generating import stage_identity, thinking_identity, usage_metrics
from nemo_srlm.stages.common.judge_pairs import USABLE_SPREAD, comparisons

NAME = "meta_judge"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    refs = {name: Ref(name, iteration) for name in ("prompts", "candidates", "judge")}
    return refs | {"model": export_ref(cfg, iteration - 1)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    template = compare_template.load(cfg.judge_training.template).text
    return {
        "template": template,
        "max_tokens": cfg.judge.max_tokens,
        **USABLE_SPREAD,
        **thinking_identity(cfg),
        **stage_identity(cfg, NAME),
    }


def _run(ctx: Context) -> None:
    template = compare_template.load(ctx.cfg.judge_training.template)
    compare(ctx, NAME, comparisons(ctx), ctx.inputs["model"] / "hf", template)


def _finalize(ctx: Context) -> dict[str, Any]:
    """Raises DataError when not one comparison was made."""
    verdicts = merge_verdicts(ctx, list(comparisons(ctx)))
    found = [verdict for pair in verdicts for verdict in pair if verdict]
    counts = Counter(v.verdict or ("error" if v.error else "unparsed") for v in found)
    if found and counts["error"] == len(found):
        raise DataError(
            ctx.dir, f"not one of {len(found)} comparisons was made; the first: {found[0].error}", "verdicts",
            "mend the cause, remove the directory and run the same command again",
        )  # fmt: skip
    both = [(a.verdict, b.verdict) for a, b in verdicts if a and b and a.verdict in "AB" and b.verdict in "AB"]
    both = [pair for pair in both if all(pair)]
    unparsed = counts["unparsed"] / len(found) if found else None
    return {
        "comparisons": len(verdicts), "verdicts": dict(sorted(counts.items())), "unparsed": unparsed,
        "consistent": sum(a != b for a, b in both) / len(both) if both else None, "engine": usage_metrics(ctx),
        "summary": f"{len(verdicts)} comparisons in both orders, {counts['unparsed']} verdicts do not parse",
    }  # fmt: skip


STAGE = Stage(NAME, "generate", _inputs, _identity, _run, _finalize, lambda cfg: cfg.judge_training.shards)
