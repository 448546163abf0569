"""Several runs beside each other: what differs between them, control arms, seeds.

Two runs are paired by prompt only where both were measured alike: the same held-out data and settings of the evaluation.
Other settings that differ are listed. Runs that differ in their seeds alone (run.seed, and world.seed, by which each has a tiny
world with held-out prompts of its own) are independent repetitions of one experiment, and their changes are averaged.
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
CONTROLS = ("random", "sft_only")  # arms that learn nothing from the model's own judgements


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


def seeds(run: Data) -> tuple[int, int | None]:
    """What tells a repetition from another: (run.seed, the tiny world's seed or None)."""
    return run["seed"], run["world_seed"]


def unlike(a: Data, b: Data) -> list[str]:
    """How the measurement of `b` differs from that of `a`: with anything, the two are not paired."""
    return manifest.field_diff(a["settings"]["measuring"], b["settings"]["measuring"])


def another_world(a: Data, b: Data) -> bool:
    """Whether the two differ in the seed of their tiny world, and in nothing else that changes what a figure means."""
    return seeds(a)[1] != seeds(b)[1] and _without_world(a) == _without_world(b)


def _without_world(run: Data) -> Data:
    """The settings of the measurement without the seed of the tiny world, and without the held-out data that follow from it."""
    measuring = run["settings"]["measuring"]
    world = {name: value for name, value in measuring["world"].items() if name != "seed"}
    return {**measuring, "world": world, "held_out": {"split": measuring["held_out"]["split"]}}


def repeats(a: Data, b: Data) -> bool:
    """Whether the two are one experiment, whatever their seeds and arms."""
    alike = not unlike(a, b) or another_world(a, b)
    return alike and a["settings"]["others"] == b["settings"]["others"]


def controls(run: Data, runs: Sequence[Data]) -> list[Data]:
    """The control arms of a run: the same seeds, measured alike."""
    return [r for r in runs if r["arm"] in CONTROLS and r["arm"] != run["arm"] and seeds(r) == seeds(run)
            and not unlike(run, r)]  # fmt: skip


def policies(run: Data) -> list[str]:
    """The models whose change is the result of a run: all but the SFT baseline, oldest first."""
    return [m["name"] for m in run["models"] if m["name"] != "baseline"]


def first_to_last(run: Data, figure: str) -> Data | None:
    """The change of a figure from the first measured policy to the last; None with fewer than two."""
    names = [name for name in policies(run) if name in run["estimates"].get(figure, {})]
    if len(names) < 2:
        return None
    return next((c for c in run["changes"].get(figure, []) if (c["first"], c["last"]) == (names[0], names[-1])), None)


def _base(run: Data, runs: Sequence[Data]) -> Data:
    """The run that another is compared with: that of the first one's arm with the same seeds, else the first."""
    same = [r for r in runs if r["arm"] == runs[0]["arm"] and seeds(r) == seeds(run) and not unlike(r, run)]
    return same[0] if same and run["arm"] != runs[0]["arm"] else runs[0]


def between(runs: Sequence[Data], measured: Sequence[Measured]) -> list[Data]:
    """Each later run against its base, which is the first run, or one of that arm with its own seeds.

    {"label", "base": label, "arm", "seed", "unlike": how its measurement differs, "other_world": whether that is the seed of the
    tiny world alone, "differ": other settings, "figures": name -> [the base's model minus this run's model of the same name]}.
    With anything in `unlike` there are no figures, and none of a model that answered alike in both: it is the same (run.reuse).
    """
    found = []
    for run, theirs in zip(runs[1:], measured[1:], strict=True):
        base = _base(run, runs)
        own, differs = measured[runs.index(base)], unlike(base, run)
        figures: dict[str, list[Data]] = {}
        made = [m for m in policies(base) if any(own[name].get(m) != theirs.get(name, {}).get(m) for name in own)]
        for name in () if differs else own:
            common = [m for m in made if m in own[name] and m in theirs.get(name, {})]
            rows = [(m, units.compared(name, theirs[name][m], own[name][m])) for m in common]
            figures[name] = [{"model": m, **row} for m, row in rows if row is not None]
        found.append(
            {
                "label": run["label"], "base": base["label"], "arm": run["arm"], "seed": run["seed"], "unlike": differs,
                "other_world": another_world(base, run), "figures": figures,
                "differ": manifest.field_diff(base["settings"]["others"], run["settings"]["others"]),
            }
        )  # fmt: skip
    return found


def over_seeds(runs: Sequence[Data]) -> list[Data]:
    """Per arm with two or more seeds, of the runs that repeat the first one: the change of each figure over the seeds.

    [{"arm", "figure", "first", "last", "points": [(seed, change)], value, interval, num, "left_out", "worlds": how many tiny
    worlds}]; the interval is Student's over seeds. "arm" `a - b`: the difference of two arms on the seeds that both have.
    `left_out`: labels of runs whose models end elsewhere (unfinished ones), and of second runs of one arm and seed. A seed is
    run.seed; where one has several worlds, `run.seed/world.seed`.
    """
    alike = [run for run in runs if repeats(runs[0], run)]
    arms = list(dict.fromkeys(run["arm"] for run in alike))
    several = len({seeds(run) for run in alike}) > len({run["seed"] for run in alike})

    def name_of(key: tuple[int, int | None]) -> int | str:
        return f"{key[0]}/{key[1]}" if several else key[0]

    found = []
    for figure, kind in units.FIGURES.items():
        if kind.detail:
            continue
        by_arm: dict[str, dict[tuple[int, int | None], float]] = {}
        changed = [(run, change) for run in alike if (change := first_to_last(run, figure)) is not None]
        ends = max(((c["first"], c["last"]) for _, c in changed), key=lambda pair: int(pair[1][1:]), default=("", ""))
        left_out = []
        for run, change in changed:
            own_arm = by_arm.setdefault(run["arm"], {})
            if (change["first"], change["last"]) != ends or seeds(run) in own_arm:
                left_out.append(run["label"])
            else:
                own_arm[seeds(run)] = change["value"]
        own = by_arm.get(arms[0], {})
        rows = {arm: by_arm.get(arm, {}) for arm in arms}
        for arm in arms[1:]:
            rows[f"{arms[0]} - {arm}"] = {s: own[s] - v for s, v in by_arm.get(arm, {}).items() if s in own}
        for arm, points in rows.items():
            if len(points) > 1:
                estimate = statistics.of_values([points[key] for key in sorted(points)])
                assert estimate is not None
                found.append(
                    {"arm": arm, "figure": figure, "first": ends[0], "last": ends[1],
                     "points": [(name_of(key), points[key]) for key in sorted(points)], "left_out": left_out,
                     "worlds": len({key[1] for key in points}), **estimate.to_json()}
                )  # fmt: skip
    return found
