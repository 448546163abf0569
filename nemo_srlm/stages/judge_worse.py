"""judge_worse (judge_training.method=self_taught): the policy judges the worse responses as responses to the original prompts."""

from nemo_srlm.stages.common.judged_candidates import judging_stage

STAGE = judging_stage("judge_worse", "worse_responses")
