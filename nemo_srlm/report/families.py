"""The oracle's score by family (tiny world): every model's mean and its difference, with intervals over questions."""

from collections.abc import Collection, Mapping

from nemo_srlm.evaluate.statistics import Units
from nemo_srlm.report import units
from nemo_srlm.report.run_files import Data
from nemo_srlm.report.units import Measured
from nemo_srlm.tiny_world.questions import FAMILIES

FIGURES = ("oracle", "correct", "all_correct")


def read(measured: Measured) -> list[Data]:
    """[{"family", "figures": figure -> {"estimates": model -> ..., "changes": [...]}}], as in units.py; [] without an oracle."""
    if not all(name in measured for name in FIGURES):
        return []
    found = []
    for name in FAMILIES:
        own = {figure: within(measured[figure], (name,)) for figure in FIGURES}
        estimates, changes = units.estimates(own), units.changes(own)
        if any(estimates.values()):
            shown = {figure: {"estimates": estimates[figure], "changes": changes[figure]} for figure in FIGURES}
            found.append({"family": name, "figures": shown})
    return found


def within(models: Mapping[str, Units], families: Collection[str]) -> dict[str, Units]:
    """The units of some families. A unit is a question (units.questions), and its name begins with its family's."""
    return {
        model: {key: pair for key, pair in found.items() if key.split(" ", 1)[0] in families}
        for model, found in models.items()
    }
