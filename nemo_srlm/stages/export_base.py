"""export_base: M0 as an HF directory, verified. See stages/common/exporting.py."""

from nemo_srlm.core.pipeline import base_ref
from nemo_srlm.stages.common.exporting import export_stage

STAGE = export_stage("export_base", lambda cfg, iteration: base_ref(cfg))
