"""judge: the policy scores every candidate (judgements.jsonl, Judgement, in the candidates' order).

One response at a time, as in the paper, or with judge.shape=pairwise two candidates of a prompt against each other.
"""

from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.pipeline import export_ref
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.evaluate import compare_template
from nemo_srlm.stages.common import judged_candidates, judged_pairwise
from nemo_srlm.stages.common.generating import stage_identity


def _is_pairwise(cfg: Config) -> bool:
    return cfg.judge.shape == "pairwise"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    refs = {"prompts": Ref("prompts", iteration), "candidates": Ref("candidates", iteration)}
    return refs if "judge" in cfg.api.stages else refs | {"model": export_ref(cfg, iteration - 1)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    if not _is_pairwise(cfg):
        return judged_candidates.judged_identity(cfg, "judge")
    own = {
        name: value
        for name, value in identity(cfg.judge).items()
        if name in ("max_score", "max_tokens", "thinking_end")
    }
    own |= {"shape": "pairwise", "compare_template": compare_template.load(cfg.judge.compare_template).text}
    return {"judge": own, **stage_identity(cfg, "judge")}


def _run(ctx: Context) -> None:
    (judged_pairwise.run if _is_pairwise(ctx.cfg) else judged_candidates.judge_candidates)(ctx)


def _finalize(ctx: Context) -> dict[str, Any]:
    return (judged_pairwise.finalize if _is_pairwise(ctx.cfg) else judged_candidates.finalize)(ctx)


STAGE = Stage("judge", "generate", _inputs, _identity, _run, _finalize, lambda cfg: cfg.judge.shards)
