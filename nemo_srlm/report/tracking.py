"""What the report sends to the trackers (core/trackers.py): evaluations of every model, tables, samples, the page itself.

Scalars are `evaluation/<figure>` with the model's number as the step: 0 is M0, 1 is M1 and so on. The SFT baseline, which
has no number, is in the tables. No name continues another one with a slash: MLflow may keep metrics as files.
"""

from pathlib import Path

from nemo_srlm.core.trackers import Rows, Trackers
from nemo_srlm.evaluate.alpaca_rows import is_whole
from nemo_srlm.report import (
    benchmarks,
    comparisons,
    model_tables,
    nlp,
    preference_files,
    preference_training,
    training_data,
)
from nemo_srlm.report.run_files import Data
from nemo_srlm.report.summary import self_judged

Table = tuple[str, list[str], Rows]


def publish(run: Data, page: Path, trackers: Trackers) -> None:
    """Sends a run's data (report.json's) and its page; report.md lies beside `page`."""
    for step, values in evaluations(run).items():
        trackers.scalars(values, step)
    for table in (*results(run), *samples(run)):
        trackers.table(*table)
    trackers.page(page, page.with_suffix(".md").read_text(encoding="utf-8"))


def evaluations(run: Data) -> dict[int, dict[str, float]]:
    """Model's number -> its figures; those with an interval also as `<figure>_low` and `<figure>_high`."""
    found: dict[int, dict[str, float]] = {}
    for model in run["models"]:
        if not model["name"].startswith("M"):
            continue
        values: dict[str, float | None] = {}
        for figure, models in run["estimates"].items():
            if estimate := models.get(model["name"]):
                values |= {
                    figure: estimate["value"],
                    f"{figure}_low": estimate["low"],
                    f"{figure}_high": estimate["high"],
                }
        for name in ("distinct_2", "self_bleu", "truncated"):
            values[name] = model["responses"][name] if model["responses"] else None
        for task, row in (model["benchmarks"] or {}).items():
            values[f"nlp/{task}"] = row["value"]
        row = model["alpaca"]["row"] if model["alpaca"] else None
        for name in ("win_rate", "length_controlled_winrate"):
            of = "alpaca" if row is None or is_whole(row) else "alpaca_of_a_part"
            values[f"{of}/{name}"] = row[name] if row and name in row else None
        for versus in run["head_to_head"]:
            if versus["model"] == model["name"]:
                name = "self_judged_win_rate_against" if self_judged(versus) else "win_rate_against"
                values[f"{name}/{versus['other']}"] = versus["win_rate"]
                for end, net in zip(("low", "high"), versus["net_interval"] or (), strict=False):
                    values[f"{name}/{versus['other']}_{end}"] = (1 + net) / 2
        known = {f"evaluation/{name}": float(value) for name, value in values.items() if value is not None}
        if known:
            found[int(model["name"][1:])] = known
    return found


def results(run: Data) -> list[Table]:
    """The report's tables as (name, header, rows of text)."""
    rooms = (training_data, benchmarks, preference_files, nlp, preference_training)
    tables = [
        *model_tables.models([run]), *comparisons.models([run]), *model_tables.judging([run]), *model_tables.by_family([run]),
        *model_tables.responses([run]), *(table for room in rooms for table in room.tables([run])),
    ]  # fmt: skip
    return [(f"evaluation/{_slug(table['title'])}", *benchmarks.plain(table)) for table in tables]


def samples(run: Data) -> list[Table]:
    """The report's samples: candidates with scores and roles of each iteration; every model's response to the same prompts."""
    found: list[Table] = []
    for iteration in run["samples"]:
        rows = [
            [item["prompt"], item["reason"] or "", candidate["role"], "" if candidate["score"] is None else
             f"{candidate['score']:g}", candidate["error"] or candidate["text"]]
            for item in iteration["items"] for candidate in item["candidates"]
        ]  # fmt: skip
        header = ["prompt", "why no pair", "role", "score", "response"]
        found.append((f"samples/iteration_{iteration['iteration']}", header, rows))
    if run["same_prompt"]:
        models = [response["model"] for response in run["same_prompt"][0]["responses"]]
        rows = [[item["prompt"], *(r["error"] or r["text"] for r in item["responses"])] for item in run["same_prompt"]]
        found.append(("samples/same_prompt", ["prompt", *models], rows))
    return found


def _slug(title: str) -> str:
    """A title as a name that every tracker takes: letters, digits and _."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in title.lower()).strip("_")
