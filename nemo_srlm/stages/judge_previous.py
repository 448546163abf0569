"""judge_previous (pairs.consistency): the model before the policy scores the policy's candidates, too, from iteration 2 on.

How far both rankings agree says how certain a preference is (CREAM, Wang et al. 2024, arXiv 2410.12735). Iteration 1 has no
judge before its own.
"""

from nemo_srlm.stages.common.judged_candidates import judging_stage

STAGE = judging_stage("judge_previous", "candidates", behind=2)
