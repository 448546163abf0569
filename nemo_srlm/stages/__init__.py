"""The stages, one file each; `load` finds a stage by its name."""

from importlib import import_module

from nemo_srlm.core.stage import Stage


def load(name: str) -> Stage:
    """The stage `name`: STAGE of stages/<name>.py; of an evaluation also BASELINE (the SFT baseline) and BASE (M0)."""
    module, variant = name, "STAGE"
    for suffix in ("_baseline", "_base"):
        if name.startswith("eval_") and name.endswith(suffix):
            module, variant = name.removesuffix(suffix), suffix[1:].upper()
            break
    stage = getattr(import_module(f"{__name__}.{module}"), variant)
    assert isinstance(stage, Stage)
    assert stage.name == name, f"stages/{module}.py declares {stage.name}"
    return stage
