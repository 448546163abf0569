"""export_base: M0 as an HF directory, verified. See stages/export.py."""

from nemo_srlm.config.schema import Config
from nemo_srlm.core.stage import Ref, Stage
from nemo_srlm.stages.export import exporting


def _policy(cfg: Config, iteration: int) -> Ref:
    return Ref("pretrain" if cfg.world.enabled else "import_hf", 0)


STAGE: Stage = exporting("export_base", _policy)
