"""Several runs beside each other: what differs between them, control arms, seeds.

Two runs are compared only where both were measured alike: the same held-out data and settings of the evaluation. Other
settings that differ are listed. Runs of the same seed data but another seed are independent repetitions.
"""

from collections.abc import Sequence
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.core import manifest
from nemo_srlm.evaluate import statistics
from nemo_srlm.report import units
from nemo_srlm.report.run_files import Data, RunFiles
from nemo_srlm.report.units import Measured

MEASURING = ("eval", "judge", "world")  # sections of the config that change what a figure means
HELD_OUT = ("eval_prompts.jsonl", "ranked_valid.jsonl")


def settings(files: RunFiles) -> Data:
    """{"measuring": ..., "others": ...}: all identity settings but the run's name, seed and arm, and the held-out data."""
    own: dict[str, Any] = identity(files.cfg)
    for name in ("name", "seed", "arm"):
        own["run"].pop(name, None)
    done = files.manifests.get((0, "held_out"))
    digests = (
        {name: (done.outputs[name].sha256 or "")[:12] for name in HELD_OUT if name in done.outputs} if done else {}
    )
    measuring = {name: own.pop(name) for name in MEASURING if name in own}
    return {"measuring": {**measuring, "held_out": {"split": files.cfg.world.split, **digests}}, "others": own}


def policies(run: Data) -> list[str]:
    """The models whose change is the result of a run: all but the SFT baseline, oldest first."""
    return [m["name"] for m in run["models"] if m["name"] != "baseline"]


def first_to_last(run: Data, figure: str) -> Data | None:
    """The change of a figure from the first measured policy to the last; None with fewer than two."""
    names = [name for name in policies(run) if name in run["estimates"].get(figure, {})]
    if len(names) < 2:
        return None
    return next((c for c in run["changes"].get(figure, []) if (c["first"], c["last"]) == (names[0], names[-1])), None)


def between(runs: Sequence[Data], measured: Sequence[Measured]) -> list[Data]:
    """Each later run against the first: {"label", "arm", "seed", "unlike": how its measurement differs, "differ": other
    settings, "figures": name -> [the first run's model minus this run's model of the same name]}.

    With anything in `unlike` there are no figures.
    """
    own, found = runs[0], []
    for run, theirs in zip(runs[1:], measured[1:], strict=True):
        unlike = manifest.field_diff(own["settings"]["measuring"], run["settings"]["measuring"])
        figures: dict[str, list[Data]] = {}
        for name in () if unlike else measured[0]:
            common = [m for m in policies(own) if m in measured[0][name] and m in theirs.get(name, {})]
            rows = [(m, units.compared(name, theirs[name][m], measured[0][name][m])) for m in common]
            figures[name] = [{"model": m, **row} for m, row in rows if row is not None]
        found.append(
            {
                "label": run["label"], "arm": run["arm"], "seed": run["seed"], "unlike": unlike, "figures": figures,
                "differ": manifest.field_diff(own["settings"]["others"], run["settings"]["others"]),
            }
        )  # fmt: skip
    return found


def over_seeds(runs: Sequence[Data]) -> list[Data]:
    """Per arm with two or more seeds, of the runs with the first one's settings: the change of each figure over the seeds.

    [{"arm", "figure", "first", "last", "points": [(seed, change)], value, interval, num, "left_out"}]; the interval is
    Student's over seeds. "arm" `a - b`: the difference of two arms on the seeds that both have. `left_out`: labels of runs
    whose models end elsewhere (unfinished ones), and of second runs of one arm and seed.
    """
    alike = [run for run in runs if run["settings"] == runs[0]["settings"]]
    arms = list(dict.fromkeys(run["arm"] for run in alike))
    found = []
    for figure in units.FIGURES:
        by_arm: dict[str, dict[int, float]] = {}
        changed = [(run, change) for run in alike if (change := first_to_last(run, figure)) is not None]
        ends = max(((c["first"], c["last"]) for _, c in changed), key=lambda pair: int(pair[1][1:]), default=("", ""))
        left_out = []
        for run, change in changed:
            seeds = by_arm.setdefault(run["arm"], {})
            if (change["first"], change["last"]) != ends or run["seed"] in seeds:
                left_out.append(run["label"])
            else:
                seeds[run["seed"]] = change["value"]
        own = by_arm.get(arms[0], {})
        rows = {arm: by_arm.get(arm, {}) for arm in arms}
        for arm in arms[1:]:
            rows[f"{arms[0]} - {arm}"] = {s: own[s] - v for s, v in by_arm.get(arm, {}).items() if s in own}
        for arm, points in rows.items():
            if len(points) > 1:
                estimate = statistics.of_values([points[seed] for seed in sorted(points)])
                assert estimate is not None
                found.append(
                    {"arm": arm, "figure": figure, "first": ends[0], "last": ends[1],
                     "points": [(seed, points[seed]) for seed in sorted(points)], "left_out": left_out,
                     **estimate.to_json()}
                )  # fmt: skip
    return found
