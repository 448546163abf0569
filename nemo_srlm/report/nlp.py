"""NLP benchmarks of lm-evaluation-harness as tables: every model's results, and its differences from M0, the alignment tax.

Tables as in benchmarks.py.
"""

import math
from collections.abc import Sequence
from typing import Any

from nemo_srlm.core.files import read_typed_lines
from nemo_srlm.core.pipeline import evaluated_models
from nemo_srlm.evaluate import harness, paper, statistics
from nemo_srlm.evaluate.harness import QuestionScore
from nemo_srlm.evaluate.statistics import Estimate, Units
from nemo_srlm.report.benchmarks import cell, interval_of_error
from nemo_srlm.report.comparisons import VERDICTS
from nemo_srlm.report.numbers import decimal, interval, percent, signed
from nemo_srlm.report.run_files import Data, RunFiles

MARGIN = 0.02  # within which a result counts as equal to M0's
STAGE, QUESTIONS = "eval_harness", "questions.jsonl"


def read_tax(files: RunFiles) -> list[Data]:
    """Each model's difference from M0 on each task: [{"task", "model", value, interval, num, "verdict", "paired"}].

    Paired by question where both evaluations kept their questions; otherwise of two independent samples.
    """
    base = files.metrics(0, f"{STAGE}_base")
    if base is None:
        return []
    theirs, found = _questions(files, 0, "_base"), []
    for model, t, suffix in evaluated_models(files.cfg, files.cfg.iterations):
        own = files.metrics(t, f"{STAGE}{suffix}")
        if own is None or suffix == "_base":
            continue
        ours = _questions(files, t, suffix)
        for task in base["tasks"]:
            if task not in own["tasks"] or not (_is_share(base["tasks"][task]) and _is_share(own["tasks"][task])):
                continue
            paired = statistics.difference(theirs.get(task, {}), ours.get(task, {}), 1.0)
            change = paired or _independent(base["tasks"][task], own["tasks"][task])
            verdict = statistics.verdict(change, MARGIN)
            row = {"task": task, "model": model, **change.to_json(), "verdict": verdict, "paired": paired is not None}
            found.append(row)
    return found


def _is_share(row: Data) -> bool:
    """A perplexity, or an F1 of 0 to 100, is shown as it is, without a difference in percentage points."""
    return row["value"] is not None and 0.0 <= row["value"] <= 1.0


def _questions(files: RunFiles, t: int, suffix: str) -> dict[str, Units]:
    """Task -> its questions; {} for an evaluation that kept none."""
    path = files.path(t, f"{STAGE}{suffix}", QUESTIONS)
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for row in read_typed_lines(path, QuestionScore) if path else ():
        found.setdefault(row.task, {})[row.question] = (row.value, 1.0)
    return dict(found)


def _independent(first: Data, last: Data) -> Estimate:
    value, num = last["value"] - first["value"], min(first["samples"] or 0, last["samples"] or 0)
    if not (first["se"] and last["se"]):  # unknown, or no spread, which says nothing of its size
        return Estimate(value, None, None, num)
    half = statistics.Z95 * math.hypot(first["se"], last["se"])
    return Estimate(value, value - half, value + half, num)


def tables(runs: Sequence[Data]) -> list[Data]:
    return [table for table in (_results(runs), _tax(runs)) if table["rows"]]


def _results(runs: Sequence[Data]) -> Data:
    columns = [
        (run, name, tasks)
        for run in runs
        for name, tasks in [("M0", run["base_benchmarks"]), *((m["name"], m["benchmarks"]) for m in run["models"])]
        if tasks
    ]
    rows = []
    for task in dict.fromkeys(task for _, _, tasks in columns for task in tasks):
        known = next(tasks[task] for _, _, tasks in columns if task in tasks)
        shots = "" if known["shots"] is None else f", {known['shots']} shots"
        cells = [cell(task, f"{known['metric'].split(',')[0]}{shots}")]
        for _, name, tasks in columns:
            row = tasks.get(task)
            published = paper.BENCHMARKS.get(harness.PAPER.get(task, ""), {}).get(name)
            beside = "" if published is None else percent(published)
            cells.append(cell("–") if row is None else cell(*shown(row), beside))
        rows.append(cells)
    return {
        "title": "NLP benchmarks",
        "note": "lm-evaluation-harness, in percent; brackets are 95% intervals. The paper states no numbers of shots: compare "
        "directions.",
        "header": ["task", *(_name(run, name, runs) for run, name, _ in columns)],
        "rows": rows,
    }


def shown(row: Data) -> tuple[str, str]:
    """A result and its interval."""
    if row["value"] is None or _is_share(row):
        return percent(row["value"]), interval_of_error(row["value"], row["se"], row["samples"])
    return decimal(row["value"], 2), "" if row["se"] is None else f"± {decimal(row['se'], 2)} (standard error)"


def _name(run: Data, model: str, runs: Sequence[Data]) -> str:
    return f"{run['label']} {model}" if len(runs) > 1 else model


def _tax(runs: Sequence[Data]) -> Data:
    """Rows: tasks, and their mean; columns: models."""
    columns = [
        (run, model, {row["task"]: row for row in run["alignment_tax"] if row["model"] == model})
        for run in runs
        for model in dict.fromkeys(row["model"] for row in run["alignment_tax"])
    ]
    tasks = list(dict.fromkeys(task for _, _, rows in columns for task in rows))
    made = [[cell(task), *(_change(rows.get(task)) for _, _, rows in columns)] for task in tasks]
    if len(tasks) > 1:
        made.append(
            [cell("mean of the tasks"), *(_mean([r for t in tasks if (r := rows.get(t))]) for _, _, rows in columns)]
        )
    return {
        "title": "Alignment tax: difference from M0",
        "note": "The model minus M0, in percentage points with a 95% interval; up is better than M0. Paired by question where "
        "both evaluations kept their questions (“independent” where not). Equal: within ±2 points. The mean takes tasks as "
        "independent. Metrics that are no shares (perplexity) are not in it.",
        "header": ["task", *(_name(run, model, runs) for run, model, _ in columns)],
        "rows": made,
    }  # fmt: skip


def _change(row: dict[str, Any] | None) -> dict[str, str]:
    if row is None:
        return cell("–")
    words = [interval(row, "share"), VERDICTS[row["verdict"]], "" if row["paired"] else "independent"]
    return cell(signed(row["value"], "share"), ", ".join(word for word in words if word))


def _mean(rows: Sequence[Data]) -> dict[str, str]:
    if not rows:
        return cell("–")
    value = sum(row["value"] for row in rows) / len(rows)
    if any(row["low"] is None for row in rows):
        return cell(signed(value, "share"))
    half = math.sqrt(sum(((row["high"] - row["low"]) / 2) ** 2 for row in rows)) / len(rows)
    return cell(signed(value, "share"), interval({"low": value - half, "high": value + half}, "share"))
