"""judge_anchors (pairs.rejected_from=m1): the policy scores M1's responses as it scores its own."""

from nemo_srlm.stages.common.judged_candidates import judging_stage

STAGE = judging_stage("judge_anchors", "anchors")
