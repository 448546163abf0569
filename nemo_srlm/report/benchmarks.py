"""Optional evaluations as tables, for the page and for report.md: AlpacaEval, MT-Bench, lm-evaluation-harness, preference
files, KL, the choice of checkpoints.

A table is {"title", "note", "header": [text], "rows": [[cell]]}; a cell is {"text", "error": interval or "", "paper": the
published number or ""}. An evaluation that no run has made has no table.
"""

from collections.abc import Callable, Sequence
from typing import Any

from nemo_srlm.evaluate import harness, paper
from nemo_srlm.report.numbers import count, decimal, metric_value, percent, points
from nemo_srlm.report.run_files import Data, figure


def cell(text: str, error: str = "", published: str = "") -> dict[str, str]:
    return {"text": text, "error": error, "paper": published}


def tables(runs: Sequence[Data]) -> list[Data]:
    found = [_alpaca(runs), _mt_bench(runs), _harness(runs), *_preferences(runs), _kl(runs), _selection(runs)]
    return [table for table in found if table["rows"]]


def plain(table: Data) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, for Markdown."""
    rows = [
        [" ".join(t for t in (c["text"], c["error"], f"(paper {c['paper']})" if c["paper"] else "") if t) for c in row]
        for row in table["rows"]
    ]
    return table["header"], rows


def _per_model(runs: Sequence[Data], section: str, cells: Callable[[Data, str], list[dict[str, str]]]) -> list[Any]:
    """A row for each model of each run that has `section`; with several runs, a row's name begins with the run's."""
    return [
        [cell(f"{run['label']} {m['name']}" if len(runs) > 1 else m["name"]), *cells(m[section], m["name"])]
        for run in runs
        for m in run["models"]
        if m[section] is not None
    ]


def _plus_minus(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"±{decimal(value, digits)}"


def _alpaca(runs: Sequence[Data]) -> Data:
    def cells(found: Data, model: str) -> list[dict[str, str]]:
        row = found["row"]
        controlled = row if row and "length_controlled_winrate" in row else None  # needs a calibration
        rate, length = paper.ALPACA_WIN_RATE.get(model), paper.ALPACA_LENGTH.get(model)
        return [
            cell(decimal(figure(row, "win_rate")), _plus_minus(figure(row, "standard_error")),
                 "" if rate is None else decimal(100 * rate)),
            cell(decimal(figure(controlled, "length_controlled_winrate")),
                 _plus_minus(figure(controlled, "lc_standard_error"))),
            cell(decimal(figure(row, "discrete_win_rate"))),
            cell(count(row["avg_length"] if row else found["characters"]),
                 published="" if length is None else count(length)),
            cell(count(row["n_total"] if row else found["responses"])),
        ]  # fmt: skip

    return {
        "title": "AlpacaEval 2",
        "note": "Win rates in percent against the baseline of the annotations; ± is one standard error. A dash: no "
        "annotations yet; add them with nemo-srlm alpaca ANNOTATIONS --run RUN --model M.",
        "header": ["model", "win rate", "length-controlled", "discrete", "characters", "instructions"],
        "rows": _per_model(runs, "alpaca", cells),
    }


def _mt_bench(runs: Sequence[Data]) -> Data:
    def cells(found: Data, model: str) -> list[dict[str, str]]:
        published = paper.MT_BENCH.get(model)
        return [
            cell(decimal(found["overall"]), _plus_minus(found["se_overall"]),
                 "" if published is None else decimal(published)),
            cell(decimal(found["turn_1"])), cell(decimal(found["turn_2"])), cell(count(found["graded"])),
            cell(count(found["failed"] + found["unanswered"])), cell(found["judge"]),
        ]  # fmt: skip

    return {
        "title": "MT-Bench",
        "note": "Grades out of 10, one per turn; ± is one standard error, clustered by question. The paper’s judge is GPT-4.",
        "header": ["model", "overall", "first turn", "second turn", "grades", "not graded", "judge"],
        "rows": _per_model(runs, "mt_bench", cells),
    }


def _harness(runs: Sequence[Data]) -> Data:
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
            error = "" if row is None or row["se"] is None else f"±{100 * row['se']:.1f}"
            cells.append(cell(percent(None if row is None else row["value"]), error, beside))
        rows.append(cells)
    return {
        "title": "NLP benchmarks",
        "note": "lm-evaluation-harness; ± is one standard error. The paper states no numbers of shots: compare directions.",
        "header": ["task", *(f"{r['label']} {name}" if len(runs) > 1 else name for r, name, _ in columns)],
        "rows": rows,
    }


def _preferences(runs: Sequence[Data]) -> list[Data]:
    files = dict.fromkeys(name for run in runs for m in run["models"] for name in m["preferences"] or {})
    shown = ("pairwise_accuracy", "pairwise_strict", "exact_match", "spearman", "kendall")

    def of(name: str) -> Data:
        def cells(found: Data, model: str) -> list[dict[str, str]]:
            own, out = found.get(name), []
            for metric in shown:
                interval = own["intervals"][metric] if own else None
                error = " to ".join(metric_value(metric, v) for v in interval) if interval else ""
                out.append(cell(metric_value(metric, figure(own, metric)), error))
            counts = own["counts"] if own else None
            return [*out, *(cell(count(figure(counts, key))) for key in ("pairs", "tied_pairs", "unscored"))]

        header = [
            "model",
            "pairwise",
            "ties wrong",
            "exact match",
            "Spearman",
            "Kendall τ",
            "pairs",
            "tied",
            "no score",
        ]
        return {
            "title": f"Judging {name}",
            "note": "The reward-model metrics on a preference file; 95% intervals by bootstrap over instructions.",
            "header": header,
            "rows": _per_model(runs, "preferences", cells),
        }

    return [of(name) for name in files]


def _kl(runs: Sequence[Data]) -> Data:
    def cells(found: Data, model: str) -> list[dict[str, str]]:
        return [
            cell(decimal(found["kl"], 4), _plus_minus(found["se_kl"], 4)), cell(count(found["responses"])),
            cell(count(found["tokens"])), cell(count(found["failed"])),
        ]  # fmt: skip

    return {
        "title": "KL to the previous policy",
        "note": "Mean log-ratio in nats per token, on the newer policy’s own held-out responses; ± is one standard error.",
        "header": ["model", "nats per token", "responses", "tokens", "not scored"],
        "rows": _per_model(runs, "kl", cells),
    }


def _selection(runs: Sequence[Data]) -> Data:
    def rows(label: str, found: Data) -> list[list[dict[str, str]]]:
        made = []
        for step in found["comparisons"]:
            low_high = " to ".join(points(v) for v in step["net_interval"]) if step["judged"] else ""
            kept = found["chosen"]
            mark = "kept" if kept == step["checkpoint"] else "the previous one is kept" if kept == step["other"] else ""
            made.append([
                cell(label), cell(step["checkpoint"]), cell(step["other"]),
                cell("–" if step["net"] is None else points(step["net"]), low_high), cell(count(step["judged"])), cell(mark),
            ])  # fmt: skip
        return made

    return {
        "title": "Choice of checkpoints",
        "note": "Each checkpoint of a training against the previous one, wins minus losses in percentage points (95%). The "
        "search stops at the first that does not win. These prompts select the checkpoint: they are no measurement of it.",
        "header": ["model", "checkpoint", "against", "win - loss", "judged", ""],
        "rows": [
            row
            for run in runs
            for m in run["models"]
            if m["selection"] is not None
            for row in rows(f"{run['label']} {m['name']}" if len(runs) > 1 else m["name"], m["selection"])
        ],
    }
