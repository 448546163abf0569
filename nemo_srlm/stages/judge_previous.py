"""judge_previous (pairs.consistency): the model before the policy scores the policy's candidates, too, from iteration 2 on.

How far both rankings agree says how certain a preference is (CREAM, Wang et al. 2024, arXiv 2410.12735). Iteration 1 has no
judge before its own.
"""

from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.pipeline import export_ref
from nemo_srlm.core.stage import Ref, Stage
from nemo_srlm.stages.common.judged_candidates import finalize, judge_candidates
from nemo_srlm.stages.common.judging import judge_identity


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    refs = {"prompts": Ref("prompts", iteration), "candidates": Ref("candidates", iteration)}
    return refs | {"model": export_ref(cfg, iteration - 2)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return judge_identity(cfg, "judge_previous")


STAGE = Stage(
    "judge_previous", "generate", _inputs, _identity, judge_candidates, finalize, lambda cfg: cfg.judge.shards
)
