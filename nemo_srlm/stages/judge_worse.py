"""judge_worse (judge_training.method=self_taught): the policy judges the worse responses as responses to the original prompts."""

from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.pipeline import export_ref
from nemo_srlm.core.stage import Ref, Stage
from nemo_srlm.stages.common.judged_candidates import finalize, judge_candidates
from nemo_srlm.stages.common.judging import judge_identity


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    refs = {"prompts": Ref("prompts", iteration), "candidates": Ref("worse_responses", iteration)}
    return refs | {"model": export_ref(cfg, iteration - 1)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return judge_identity(cfg, "judge_worse")


STAGE = Stage("judge_worse", "generate", _inputs, _identity, judge_candidates, finalize, lambda cfg: cfg.judge.shards)
