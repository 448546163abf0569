"""The oracle's score by family (tiny world): every model's mean and its difference, with intervals over questions."""

from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Prompt
from nemo_srlm.evaluate.statistics import Units
from nemo_srlm.report import units
from nemo_srlm.report.run_files import Data, RunFiles
from nemo_srlm.report.units import Measured
from nemo_srlm.tiny_world.questions import FAMILIES, parse

FIGURES = ("oracle", "correct", "all_correct")


def read(files: RunFiles, measured: Measured) -> list[Data]:
    """[{"family", "figures": figure -> {"estimates": model -> ..., "changes": [...]}}], as in units.py; [] without an oracle."""
    path = files.path(0, "held_out", "eval_prompts.jsonl")
    if path is None or not all(name in measured for name in FIGURES):
        return []
    asked = [question for p in read_records(path, Prompt) if (question := parse(p.text)) is not None]
    family = {question.combination: question.family for question in asked}  # units are questions: units.questions
    found = []
    for name in FAMILIES:
        own = {figure: _within(measured[figure], {i for i, f in family.items() if f == name}) for figure in FIGURES}
        estimates, changes = units.estimates(own), units.changes(own)
        if any(estimates.values()):
            shown = {figure: {"estimates": estimates[figure], "changes": changes[figure]} for figure in FIGURES}
            found.append({"family": name, "figures": shown})
    return found


def _within(models: dict[str, Units], asked: set[str]) -> dict[str, Units]:
    return {model: {key: pair for key, pair in found.items() if key in asked} for model, found in models.items()}
