"""export_baseline: the SFT baseline (M0 tuned on IFT only) as an HF directory, verified. See stages/export.py."""

from nemo_srlm.config.schema import Config
from nemo_srlm.core.stage import Ref, Stage
from nemo_srlm.stages.export import exporting


def _policy(cfg: Config, iteration: int) -> Ref:
    return Ref("baseline", 0)


STAGE: Stage = exporting("export_baseline", _policy)
