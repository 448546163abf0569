"""Optional evaluations as tables, for the page and for report.md: AlpacaEval, MT-Bench, KL, the choice of checkpoints. (NLP
benchmarks: nlp.py, preference files: preference_files.py.)

A table is {"title", "note", "header": [text], "rows": [[cell]]}; a cell is {"text", "error": interval or "", "change":
difference from another model with its interval, or "", "paper": the published number or ""}. An evaluation that no run has made
has no table.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from nemo_srlm.evaluate import paper, statistics
from nemo_srlm.evaluate.alpaca_rows import of_set
from nemo_srlm.report.numbers import count, decimal, points
from nemo_srlm.report.run_files import Data, figure


def cell(text: str, error: str = "", published: str = "", change: str = "") -> dict[str, str]:
    return {"text": text, "error": error, "paper": published, "change": change}


def tables(runs: Sequence[Data]) -> list[Data]:
    found = [_alpaca(runs), _mt_bench(runs), _kl(runs), _selection(runs)]
    return [table for table in found if table["rows"]]


def plain(table: Data) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text, for Markdown."""
    rows = [
        [
            " ".join(
                t for t in (c["text"], c["error"], c["change"], f"(paper {c['paper']})" if c["paper"] else "") if t
            )
            for c in row
        ]
        for row in table["rows"]
    ]
    return table["header"], rows


def _per_model(
    runs: Sequence[Data], section: str, cells: Callable[[Data, str, Data | None], list[dict[str, str]]]
) -> list[Any]:
    """A row for each model of each run that has `section`; with several runs, a row's name begins with the run's.

    cells: (the section, the model's name, its estimate of the figure `section` where its records are there) -> cells.
    """
    return [
        [
            cell(f"{run['label']} {m['name']}" if len(runs) > 1 else m["name"]),
            *cells(m[section], m["name"], run["estimates"].get(section, {}).get(m["name"])),
        ]
        for run in runs
        for m in run["models"]
        if m[section] is not None
    ]


def interval_of_error(value: float | None, error: float | None, num: int | None) -> str:
    """`[1.2, 3.4]`, in percent: the 95% interval of a share that is known by its standard error. "" without one.

    Normal where nobody says of how many samples it is (`num` None or 0).
    """
    if value is None or error is None or math.isnan(error):
        return ""
    if not num:
        half = statistics.Z95 * error
        return _ends(100 * (value - half), 100 * (value + half), 1)
    found = statistics.bounded(value, error, num)
    assert found.low is not None
    assert found.high is not None
    return _ends(100 * found.low, 100 * found.high, 1)


def _ends(low: float | None, high: float | None, digits: int) -> str:
    return "" if low is None or high is None else f"[{decimal(low, digits)}, {decimal(high, digits)}]"


def _estimated(found: Data | None, value: float | None, error: float | None, digits: int) -> str:
    """The interval of an estimate; of a run whose records are gone a normal one, by the standard error of its manifest."""
    if found is not None:
        return _ends(found["low"], found["high"], digits)
    half = None if value is None or error is None else statistics.Z95 * error
    return "" if value is None or half is None else _ends(value - half, value + half, digits)


def _alpaca(runs: Sequence[Data]) -> Data:
    def rated(row: Data | None, value: str, error: str) -> str:
        return "" if row is None else interval_of_error(row[value] / 100, row[error] / 100, row["n_total"])

    def cells(found: Data, model: str, _: Data | None) -> list[dict[str, str]]:
        row = found["row"]
        controlled = row if row and "length_controlled_winrate" in row else None  # needs a calibration
        rate, length = paper.ALPACA_WIN_RATE.get(model), paper.ALPACA_LENGTH.get(model)
        return [
            cell(decimal(figure(row, "win_rate")), rated(row, "win_rate", "standard_error"),
                 "" if rate is None else decimal(100 * rate)),
            cell(decimal(figure(controlled, "length_controlled_winrate")),
                 rated(controlled, "length_controlled_winrate", "lc_standard_error")),
            cell(decimal(figure(row, "discrete_win_rate"))),
            cell(count(row["avg_length"] if row else found["characters"]),
                 published="" if length is None else count(length)),
            cell(of_set(row) if row else count(found["responses"])),
        ]  # fmt: skip

    return {
        "title": "AlpacaEval 2",
        "note": "Win rates in percent against the baseline of the annotations; brackets are 95% intervals. A dash: no "
        "annotations yet; add them with nemo-srlm alpaca ANNOTATIONS --run RUN --model M. “400 of 805”: the rates are of "
        "that part of the set alone. Differences between models rated on the whole set are in the table of differences.",
        "header": ["model", "win rate", "length-controlled", "discrete", "characters", "instructions"],
        "rows": _per_model(runs, "alpaca", cells),
    }


def _mt_bench(runs: Sequence[Data]) -> Data:
    def cells(found: Data, model: str, overall: Data | None) -> list[dict[str, str]]:
        published = paper.MT_BENCH.get(model)
        return [
            cell(decimal(found["overall"]), _estimated(overall, found["overall"], found["se_overall"], 2),
                 "" if published is None else decimal(published)),
            cell(decimal(found["turn_1"])), cell(decimal(found["turn_2"])), cell(count(found["graded"])),
            cell(count(found["failed"])), cell(count(found["unanswered"])), cell(count(found.get("outside"))),
            cell(found["judge"], "self-judged: no evidence" if found["judge"] == "itself" else ""),
        ]  # fmt: skip

    return {
        "title": "MT-Bench",
        "note": "Grades out of 10, one per turn; brackets are 95% intervals, clustered by question. As in FastChat, a grade "
        "outside 1 to 10 counts, and a turn without a response is judged as $ERROR$. The paper’s judge is GPT-4.",
        "header": [
            "model",
            "overall",
            "first turn",
            "second turn",
            "grades",
            "no grade",
            "no response",
            "outside 1–10",
            "judge",
        ],
        "rows": _per_model(runs, "mt_bench", cells),
    }


def _kl(runs: Sequence[Data]) -> Data:
    def cells(found: Data, model: str, kl: Data | None) -> list[dict[str, str]]:
        return [
            cell(decimal(found["kl"], 4), _estimated(kl, found["kl"], found["se_kl"], 4)), cell(count(found["responses"])),
            cell(count(found["tokens"])), cell(count(found["failed"])),
        ]  # fmt: skip

    return {
        "title": "KL to the previous policy",
        "note": "Mean log-ratio in nats per token, on the newer policy’s own held-out responses; brackets are 95% "
        "intervals, clustered by prompt or question.",
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
