"""Scores of an iteration's candidates by what is no judge: a checker, a reward model (judgements.jsonl, Judgement)."""

from typing import Any

from nemo_srlm.core.files import read_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.records import Judgement
from nemo_srlm.core.stage import Context
from nemo_srlm.errors import DataError
from nemo_srlm.generate.requests import error_kinds
from nemo_srlm.stages.common import judged_candidates
from nemo_srlm.stages.common.judging import JUDGEMENTS


def finalize(ctx: Context, scorer: str) -> dict[str, Any]:
    """Writes judgements.jsonl. Returns counts and mean. Raises DataError when no candidate got a result."""
    merge_parts(ctx, Judgement, judged_candidates.made_ids(ctx), JUDGEMENTS)
    made = list(read_records(ctx.dir / JUDGEMENTS, Judgement))
    errors = error_kinds(one.error for one in made)
    if made and sum(errors.values()) == len(made):
        raise DataError(
            ctx.dir, f"not one of {len(made)} responses was scored; the first: {made[0].error}", "scores",
            f"mend the {scorer}, remove the directory and run the same command again",
        )  # fmt: skip
    scores = [score for one in made for score in one.scores if score is not None]
    mean = sum(scores) / len(scores) if scores else None
    return {
        "candidates": len(made), "errors": errors, "score_mean": mean,
        "no_score": len(made) - len(scores) - sum(errors.values()),
        "summary": f"{len(scores)} of {len(made)} responses with a score" + ("" if mean is None else f", mean {mean:.2f}"),
    }  # fmt: skip
