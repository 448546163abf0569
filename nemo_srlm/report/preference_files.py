"""Judging on the user's preference files (eval.preferences): the metrics of each model, and its differences, paired by
instruction.

Tables as in benchmarks.py.
"""

from collections.abc import Sequence

from nemo_srlm.core.files import read_json, read_records
from nemo_srlm.core.pipeline import evaluated_models
from nemo_srlm.core.records import Judgement, RankedReply
from nemo_srlm.evaluate import reward_metrics
from nemo_srlm.report import units
from nemo_srlm.report.benchmarks import cell
from nemo_srlm.report.comparisons import margins
from nemo_srlm.report.model_tables import BRACKETS, difference, reference
from nemo_srlm.report.numbers import count, metric_value
from nemo_srlm.report.run_files import Data, RunFiles, figure
from nemo_srlm.report.units import FIGURES, JUDGING, Measured

STAGE, FILES = "eval_preferences", "files.json"  # file name -> the ids of its replies
SHOWN = ("pairwise_accuracy", "pairwise_strict", "exact_match", "spearman", "kendall")


def read(files: RunFiles) -> dict[str, dict[str, list[Data]]]:
    """Preference file -> metric -> the paired difference of every two models, as in units.changes."""
    found: dict[str, Measured] = {}
    for model, t, suffix in evaluated_models(files.cfg, files.cfg.iterations):
        for name, replies, judged in _of_model(files, t, f"{STAGE}{suffix}"):
            rows = reward_metrics.by_instruction(replies, judged, files.min_valid_of_judge, files.cfg.judge.max_score)
            measured = found.setdefault(name, {metric: {} for metric in JUDGING})
            for metric in JUDGING:
                measured[metric][model] = reward_metrics.units_of(rows, metric)
    return {name: units.changes(measured) for name, measured in found.items()}


def _of_model(files: RunFiles, t: int, stage: str) -> list[tuple[str, list[RankedReply], dict[str, Judgement]]]:
    """(file, its replies, judgements by id) of a finished evaluation. An old one does not say which of several files has it."""
    ranked, judgements = files.path(t, stage, "ranked.jsonl"), files.path(t, stage, "judgements.jsonl")
    metrics, listed = files.metrics(t, stage), files.path(t, stage, FILES)
    if ranked is None or judgements is None or metrics is None or (listed is None and len(metrics["files"]) > 1):
        return []
    replies = {reply.id: reply for reply in read_records(ranked, RankedReply)}
    judged = {judgement.id: judgement for judgement in read_records(judgements, Judgement)}
    ids = read_json(listed) if listed else {name: list(replies) for name in metrics["files"]}
    return [(name, [replies[i] for i in own], judged) for name, own in ids.items()]


def tables(runs: Sequence[Data]) -> list[Data]:
    """A table for each file that a model of any run judged."""
    names = dict.fromkeys(name for run in runs for m in run["models"] for name in m["preferences"] or {})
    return [_table(runs, name) for name in names]


def _table(runs: Sequence[Data], name: str) -> Data:
    several = len(runs) > 1
    return {
        "title": f"Judging {name}",
        "note": f"The reward-model metrics on a preference file. {BRACKETS}Equal: within ± the margin ({margins(SHOWN)}).",
        "header": [
            "model",
            "pairwise",
            "ties wrong",
            "exact match",
            "Spearman",
            "Kendall τ",
            "pairs",
            "tied",
            "no score",
        ],
        "rows": [
            [cell(f"{run['label']} {m['name']}" if several else m["name"]), *_cells(run, m, name)]
            for run in runs
            for m in run["models"]
            if m["preferences"] is not None
        ],
    }


def _cells(run: Data, model: Data, name: str) -> list[dict[str, str]]:
    own, out = model["preferences"].get(name), []
    changes = run["preference_changes"].get(name, {})
    for metric in SHOWN:
        ends = own["intervals"][metric] if own else None
        shown = f"[{', '.join(metric_value(metric, end) for end in ends)}]" if ends else ""
        change = difference(changes.get(metric, []), reference(run, model["name"]), model["name"], FIGURES[metric].unit)
        out.append(cell(metric_value(metric, figure(own, metric)), shown, change=change))
    counts = own["counts"] if own else None
    return [*out, *(cell(count(figure(counts, key))) for key in ("pairs", "tied_pairs", "unscored"))]
