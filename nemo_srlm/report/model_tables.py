"""Tables of what every model of a run measured, each value with its interval and its difference from an earlier model.

Tables as in benchmarks.py. Policies after the first are compared with the first (M1, or an instruct M0), the first with the SFT
baseline. report/comparisons.py has the differences of the other pairs.
"""

from collections.abc import Sequence

from nemo_srlm.evaluate import paper
from nemo_srlm.report import families
from nemo_srlm.report.benchmarks import cell
from nemo_srlm.report.compare import policies
from nemo_srlm.report.comparisons import VERDICTS, margins
from nemo_srlm.report.numbers import (
    METRIC_NAMES,
    axis_value,
    count,
    decimal,
    estimate,
    interval,
    metric_value,
    percent,
    points,
    signed,
)
from nemo_srlm.report.run_files import Data, figure
from nemo_srlm.report.summary import beside, written
from nemo_srlm.report.units import FIGURES

COLUMNS = {
    "oracle": "oracle score", "full": "full marks", "correct": "correct", "pairwise_accuracy": "pairwise", "kendall": "Kendall τ",
    "words": "words",
}  # fmt: skip
COUNTS = {
    "instructions": "instructions", "pairs": "pairs", "tied_pairs": "pairs that the judge ties", "perfect": "replies scored 5",
    "unscored": "replies without a score", "failed_draws": "draws that do not parse",
}  # fmt: skip
BRACKETS = (
    "Brackets are 95% intervals, over prompts, instructions or questions; differences are paired, each is for itself. "
)


def reference(run: Data, model: str) -> str | None:
    """The earlier model that one is compared with: the first policy; for that one the SFT baseline; None without any."""
    names, made = [m["name"] for m in run["models"]], policies(run)
    wanted = made[0] if made and model in made[1:] else "baseline"
    return wanted if wanted in names and wanted != model else None


def difference(changes: Sequence[Data], first: str | None, model: str, unit: str) -> str:
    """`−0.6 pts [−1.2, +0.0] from M1, not clear`; empty without one."""
    found = next((c for c in changes if (c["first"], c["last"]) == (first, model)), None)
    if found is None:
        return ""
    words = [
        signed(found["value"], unit),
        interval(found, unit),
        f"from {written(str(first))},",
        VERDICTS[found["verdict"]],
    ]
    return " ".join(word for word in words if word)


def models(runs: Sequence[Data]) -> list[Data]:
    """A table for each run with a trained or measured model."""
    return [_models(run, len(runs) > 1) for run in runs if shown(run)]


def shown(run: Data) -> list[Data]:
    """The models that have a row."""
    return [
        m for m in run["models"] if m["trained"] or any(m[s] is not None for s in ("oracle", "reward", "responses"))
    ]


def _models(run: Data, several: bool) -> Data:
    columns = {name: [_value(run, m, name) for m in shown(run)] for name in COLUMNS}
    columns["versus"] = [_versus(run, m["name"]) for m in shown(run)]
    used = [name for name, column in columns.items() if any(c["text"] != "–" for c in column)]
    titles = {**COLUMNS, "versus": "against previous"}
    return {
        "title": f"Models{', ' + run['label'] if several else ''}",
        "note": f"{BRACKETS}Equal: within ± the margin ({margins([n for n in used if n in FIGURES])}). Against previous: wins, "
        "ties and losses in percent, and wins minus losses in points.",
        "header": ["model", *(titles[name] for name in used)],
        "rows": [[cell(m["name"]), *(columns[name][i] for name in used)] for i, m in enumerate(shown(run))],
    }


def _value(run: Data, model: Data, name: str) -> dict[str, str]:
    """A figure of a model; where its records are gone, what its manifest says, without an interval."""
    unit, section = FIGURES[name].unit, {"words": "responses"}.get(name, "reward")
    found = run["estimates"].get(name, {}).get(model["name"])
    if found is None:
        stored = None if name in ("oracle", "full", "correct") else figure(model[section], name)
        return cell("–" if stored is None else axis_value(stored, unit))
    changes = run["changes"].get(name, [])
    return cell(estimate(found, unit), change=difference(changes, reference(run, model["name"]), model["name"], unit))


def _versus(run: Data, model: str) -> dict[str, str]:
    """Win/tie/loss in percent against the previous model, and the net with its interval."""
    names = [m["name"] for m in run["models"]]
    before = names[names.index(model) - 1] if names.index(model) else None
    for c in run["head_to_head"]:
        if (c["model"], c["other"]) == (model, before) and c["win"] is not None:
            shares = "/".join(f"{100 * c[k]:.0f}" for k in ("win", "tie", "loss"))
            net = f"{points(c['net'])} [{', '.join(points(v) for v in c['net_interval'])}]"
            return cell(shares, net, change=beside(c))
    return cell("–")


def judging(runs: Sequence[Data]) -> list[Data]:
    """A table for each run with a model that was measured as a judge: metrics, and what they count."""
    return [
        _judging(run, judges, len(runs) > 1) for run in runs if (judges := [m for m in run["models"] if m["reward"]])
    ]


def _judging(run: Data, judges: list[Data], several: bool) -> Data:
    rows = [[cell(label), *(_metric(run, m, name) for m in judges)] for name, label in METRIC_NAMES.items()]
    rows += [
        [cell(label), *(cell(count(figure(m["reward"]["counts"], key))) for m in judges)]
        for key, label in COUNTS.items()
    ]
    return {
        "title": f"Judging against the ranks of the data{', ' + run['label'] if several else ''}",
        "note": f"{BRACKETS}Equal: within ± the margin ({margins(list(METRIC_NAMES))}). 5-best counts the replies that a model "
        "scores 5, which are others for each model: no paired difference.",
        "header": ["metric", *(m["name"] for m in judges)],
        "rows": rows,
    }


def _metric(run: Data, model: Data, name: str) -> dict[str, str]:
    ends = model["reward"]["intervals"][name]
    published = paper.REWARD.get(name, {}).get(model["name"])
    first = reference(run, model["name"])
    return cell(
        metric_value(name, figure(model["reward"], name)),
        f"[{', '.join(metric_value(name, end) for end in ends)}]" if ends else "",
        "" if published is None else metric_value(name, published),
        difference(run["changes"].get(name, []), first, model["name"], FIGURES[name].unit) if name in FIGURES else "",
    )


def by_family(runs: Sequence[Data]) -> list[Data]:
    """The oracle's score by family of questions, a table for each run that has it."""
    return [_families(run, len(runs) > 1) for run in runs if run["families"]]


def _families(run: Data, several: bool) -> Data:
    names = [
        m["name"]
        for m in run["models"]
        if any(m["name"] in f["figures"]["oracle"]["estimates"] for f in run["families"])
    ]
    rows = []
    for row in run["families"]:
        for name, title in (("oracle", "score"), ("correct", "correct"), ("all_correct", "all right")):
            found = row["figures"][name]
            unit = FIGURES[name].unit
            changes = [difference(found["changes"], reference(run, m), m, unit) for m in names]
            values = [estimate(found["estimates"].get(m), unit) for m in names]
            cells = [cell(value, change=change) for value, change in zip(values, changes, strict=True)]
            rows.append([cell(f"{row['family']}, {title}"), *cells])
    return {
        "title": f"Oracle score by family of questions{', ' + run['label'] if several else ''}",
        "note": f"{BRACKETS}Equal: within ± the margin ({margins(families.FIGURES)}). With so many "
        "differences some exclude 0 by chance.",
        "header": ["family", *names],
        "rows": rows,
    }  # fmt: skip


def responses(runs: Sequence[Data]) -> list[Data]:
    """Lengths of the held-out responses, a table for each run that has any."""
    return [
        _responses(run, len(runs) > 1)
        for run in runs
        if any(figure(m["responses"], "words") is not None for m in run["models"])
    ]


def _responses(run: Data, several: bool) -> Data:
    rows = []
    for m in run["models"]:
        r = m["responses"]
        if figure(r, "words") is not None:
            rows.append([
                cell(m["name"]), _value(run, m, "words"), cell(str(r["words_median"])), cell(str(r["words_p90"])),
                cell(count(r["characters"])), cell(decimal(r["tokens"], 1)), cell(percent(r["truncated"])),
                cell(percent(r["empty"])), cell(f"{count(r['failed'])} of {count(r['responses'])}"),
            ])  # fmt: skip
    return {
        "title": f"Responses{', ' + run['label'] if several else ''}",
        "note": f"{BRACKETS}Equal: within ± {margins(['words'])}. The others describe these responses, without an interval.",
        "header": [
            "model", "words", "median words", "90th percentile", "characters", "tokens", "cut at the limit", "empty", "failed",
        ],
        "rows": rows,
    }  # fmt: skip
