"""export: the policy of an iteration as an HF directory, verified.

Reads the newest complete checkpoint of the stage that trained the model, saved under any parallel layout; writes hf/
and hf.verification.json. Resumes by file; a finished hf/ without its card is verified again.
"""

from nemo_srlm.core.pipeline import policy_ref
from nemo_srlm.stages.common.exporting import export_stage

STAGE = export_stage("export", policy_ref)
