"""The stages, one file each; `load` finds a stage by its name."""

from importlib import import_module

from nemo_srlm.core.pipeline import NAMES
from nemo_srlm.core.stage import Stage
from nemo_srlm.errors import UserError


def load(name: str) -> Stage:
    """The stage `name`: STAGE of stages/<name>.py; of an evaluation also BASELINE (the SFT baseline) and BASE (M0).

    Raises UserError for a name that is not in core/pipeline.py.
    """
    if name not in NAMES:
        raise UserError(name, "no stage has this name", f"one of {', '.join(NAMES)}")
    module, variant = name, "STAGE"
    for suffix in ("_baseline", "_base"):
        if name.startswith("eval_") and name.endswith(suffix):
            module, variant = name.removesuffix(suffix), suffix[1:].upper()
            break
    stage = getattr(import_module(f"{__name__}.{module}"), variant)
    assert isinstance(stage, Stage)
    assert stage.name == name, f"stages/{module}.py declares {stage.name}"
    return stage
