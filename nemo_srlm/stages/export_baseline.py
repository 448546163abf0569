"""export_baseline: the SFT baseline (M0 tuned on IFT alone) as an HF directory, verified. See stages/common/exporting.py."""

from nemo_srlm.core.stage import Ref
from nemo_srlm.stages.common.exporting import export_stage

STAGE = export_stage("export_baseline", lambda cfg, iteration: Ref("baseline", 0))
