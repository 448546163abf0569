"""Comparisons as tables, for the page and for report.md: models of one run, runs beside each other, seeds.

Tables as in benchmarks.py.
"""

from collections.abc import Sequence
from itertools import pairwise

from nemo_srlm.evaluate.statistics import MIN_SEEDS, MIN_UNITS
from nemo_srlm.report.benchmarks import cell
from nemo_srlm.report.compare import CONTROLS, controls, policies
from nemo_srlm.report.numbers import interval, signed
from nemo_srlm.report.run_files import Data
from nemo_srlm.report.summary import ARMS, arms_of
from nemo_srlm.report.units import FIGURES

VERDICTS = {"up": "up", "down": "down", "same": "equal", "unclear": "not clear", "too_few": "too few to say"}


def margins(figures: Sequence[str]) -> str:
    """The margins within which two models count as equal, in words."""
    known = [(FIGURES[f], margin) for f in figures if f in FIGURES and (margin := FIGURES[f].margin) is not None]
    return ", ".join(f"{figure.title} {signed(margin, figure.unit).lstrip('+')}" for figure, margin in known)


TABLED = [name for name, figure in FIGURES.items() if not figure.detail]


def models(runs: Sequence[Data]) -> list[Data]:
    """A table for each run with two models to compare."""
    return [table for run in runs if (table := _models(run, len(runs) > 1))["rows"]]


def runs_and_seeds(runs: Sequence[Data]) -> list[Data]:
    """The runs against each other, and the mean over seeds."""
    return [table for table in (_runs(runs), _seeds(runs[0])) if table["rows"]]


def change(found: Data, name: str) -> dict[str, str]:
    """The cell of a difference: value, interval, verdict, number of units."""
    unit = FIGURES[name].unit
    words = f"{interval(found, unit)} {VERDICTS[found['verdict']]}, {found['num']:,} units"
    return cell(signed(found["value"], unit), words.strip())


def _models(run: Data, several: bool) -> Data:
    """Every policy against the first one, M1 and the one before it; M1 against the SFT baseline."""
    names = [m["name"] for m in run["models"]]
    made = policies(run)
    wanted = {("M1", m) for m in made} | ({(made[0], m) for m in made[1:]} | set(pairwise(names)) if made else set())
    shown = [f for f in TABLED if any((c["first"], c["last"]) in wanted for c in run["changes"].get(f, []))]
    rows = []
    for first, last in ((a, b) for j, b in enumerate(names) for a in names[:j] if (a, b) in wanted):
        found = {
            f: next((c for c in run["changes"][f] if (c["first"], c["last"]) == (first, last)), None) for f in shown
        }
        if any(found.values()):
            rows.append(
                [cell(f"{first} to {last}"), *(cell("–") if c is None else change(c, f) for f, c in found.items())]
            )
    return {
        "title": f"Differences between models{', ' + run['label'] if several else ''}",
        "note": "Paired: by prompt, instruction or question, all samples of one summed first; brackets are 95% intervals, each "
        f"for itself. up, down: the interval excludes 0. equal: it lies within ± the margin ({margins(shown)}). "
        f"No verdict below {MIN_UNITS} units.",
        "header": ["models", *(FIGURES[f].title for f in shown)],
        "rows": rows,
    }  # fmt: skip


def _runs(runs: Sequence[Data]) -> Data:
    """The models of the first run, or of the run of its arm with the same seeds, against those of the same name in the others."""
    between = runs[0]["between"]
    shown = [f for f in TABLED if any(other["figures"].get(f) for other in between)]
    rows = []
    for other in between:
        for model in policies(runs[0]):
            found = {f: next((c for c in other["figures"].get(f, []) if c["model"] == model), None) for f in shown}
            if any(found.values()):
                cells = [cell("–") if c is None else change(c, f) for f, c in found.items()]
                name = f"{other['base']} {model}, minus {other['label']}"
                rows.append([cell(name, f"{ARMS[other['arm']]}, seed {other['seed']}"), *cells])
    return {
        "title": "Runs against each other",
        "note": "One run’s model minus the other run’s model of the same name, paired on the same held-out data (one that both "
        f"share has no row); brackets are 95% intervals for these two trainings; equal: within ± {margins(shown)}. How much "
        "another seed would change is in the table of seeds.",
        "header": ["model", *(FIGURES[f].title for f in shown)],
        "rows": rows,
    }  # fmt: skip


def _seeds(run: Data) -> Data:
    rows = []
    for row in run["over_seeds"]:
        unit = FIGURES[row["figure"]].unit
        points = ", ".join(f"{seed}: {signed(value, unit)}" for seed, value in row["points"])
        points += f" (without {', '.join(row['left_out'])})" if row["left_out"] else ""
        rows.append([
            cell(FIGURES[row["figure"]].title, f"{row['first']} to {row['last']}"), cell(arms_of(row)),
            cell(signed(row["value"], unit), interval(row, unit)), cell(points),
        ])  # fmt: skip
    worlds = max((row["worlds"] for row in run["over_seeds"]), default=1)
    own = ", and each has its own tiny world: web text, seed data and held-out prompts." if worlds > 1 else (
        "; the seed data, held-out prompts and (in the tiny world) the web text are the same: the interval is not about these."
    )  # fmt: skip
    return {
        "title": "Over seeds",
        "note": f"Mean change over the seeds with Student’s 95% interval (from {MIN_SEEDS} seeds on), and each "
        f"seed’s change. Seeds differ in weights, order and sampling{own}",
        "header": ["figure", "arm", "mean change", "seed: change"],
        "rows": rows,
    }  # fmt: skip


def _some(settings: Sequence[str], most: int) -> str:
    rest = len(settings) - most
    return "; ".join(settings[:most]) + (f"; and {rest} more" if rest > 0 else "")


def notices(runs: Sequence[Data]) -> list[str]:
    """What a reader must know before any figure: runs without a control arm, runs that are not alike."""
    first, found = runs[0], _without_control(runs)
    worlds = [other["label"] for other in first["between"] if other["other_world"]]
    if worlds:
        found.append(
            f"{', '.join(worlds)}: in another tiny world (world.seed) with held-out prompts of its own, so not compared prompt "
            f"by prompt with {first['label']}."
        )
    for other in first["between"]:
        if other["unlike"] and not other["other_world"]:
            found.append(f"{other['label']} was measured otherwise and is not compared: {_some(other['unlike'], 4)}")
        if other["differ"]:
            found.append(f"{other['label']} also differs in: {_some(other['differ'], 6)}")
    return found


def _without_control(runs: Sequence[Data]) -> list[str]:
    """Every run without a control arm of its seeds, by name where there are several runs."""
    bare = [run for run in runs if run["arm"] not in CONTROLS and not controls(run, runs)]
    found = []
    for own, what in ((True, "the model’s own judgements"), (False, "the preferences")):
        some = [run["label"] for run in bare if (run["arm"] == "self") == own]
        names = "this run" if len(runs) == 1 else ", ".join(some)
        if some:
            found.append(
                f"No control arm stands beside {names}: {'it' if len(some) == 1 else 'they'} cannot tell whether a change comes "
                f"from {what}."
            )
    return found
