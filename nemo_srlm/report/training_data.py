"""What the trainings were given, as tables: where the EFT examples come from and what they yield, examples used and dropped.

Tables as in benchmarks.py.
"""

from collections.abc import Sequence

from nemo_srlm.report.benchmarks import cell
from nemo_srlm.report.numbers import count, percent, words
from nemo_srlm.report.run_files import Data, RunFiles

SOURCES = {
    "baseline": "written by {judge}, kept where they agree with the ranks",
    "external": "brought by the data",
    "ranks": "made of the ranks",
}

COMPARED = {"comparisons": "two replies", "meta": "two judgements"}


def read_eft(files: RunFiles) -> Data | None:
    """The yield of the stage eft. None where it is not finished, or is of a version that did not count it."""
    metrics = files.metrics(0, "eft")
    if metrics is None or "parsed" not in metrics:
        return None
    names = ("source", "replies", "parsed", "examples", "asked", "left_out", "judging")
    judge = "M0" if files.cfg.run.start == "instruct" else "the SFT baseline"
    compared = {name: metrics.get(name, 0) for name in ("comparisons", "meta")}  # of an older version: none
    return {**{name: metrics[name] for name in names}, **compared, "judge": judge}


def tables(runs: Sequence[Data]) -> list[Data]:
    return [table for table in (_eft(runs), _examples(runs)) if table["rows"]]


def _eft(runs: Sequence[Data]) -> Data:
    rows = []
    for run in runs:
        found = run["eft"]
        if found is None:
            continue
        judging, asked = found["judging"], [f"of {count(found['asked'])} asked"] if found["asked"] else []
        asked += [f"and {count(found[name])} that compare {what}" for name, what in COMPARED.items() if found[name]]
        left = ", ".join(f"{count(n)} {words(reason)}" for reason, n in found["left_out"].items() if n)
        m1 = next((m["reward"] for m in run["models"] if m["name"] == "M1"), None)
        rows.append([
            cell(f"{run['label']}: {found['source']}" if len(runs) > 1 else found["source"],
                 SOURCES[found["source"]].format(judge=found["judge"])),
            cell(count(found["replies"])), cell(count(found["parsed"])), cell(count(found["examples"]), ", ".join(asked)),
            cell("–", "right by construction") if judging is None else _accuracy(judging), _accuracy(m1), cell(left or "–"),
        ])  # fmt: skip
    return {
        "title": "Learning to judge (EFT)",
        "note": "Targets: pairs of replies that the judgements order as the data does, before any is left out. M1: the same of "
        "the model that was trained on them, on held-out replies. Brackets are 95% intervals over instructions.",
        "header": ["source", "ranked replies", "with a score", "kept", "targets, pairwise", "M1, pairwise", "left out"],
        "rows": rows,
    }


def _accuracy(metrics: Data | None) -> dict[str, str]:
    """Pairwise accuracy with its interval and the number of pairs."""
    if metrics is None or metrics["pairwise_accuracy"] is None:
        return cell("–")
    interval, pairs = metrics["intervals"]["pairwise_accuracy"], f"{count(metrics['counts']['pairs'])} pairs"
    shown = f"[{percent(interval[0])}, {percent(interval[1])}], {pairs}" if interval else pairs
    return cell(percent(metrics["pairwise_accuracy"]), shown)


def _examples(runs: Sequence[Data]) -> Data:
    rows = []
    for run in runs:
        for model in run["models"]:
            data = (model["training"] or {}).get("data")  # M0 is imported: it has none
            if data is None:
                continue
            used = [f"{count(n)} {words(name)}" for name, n in data["used"].items()]
            dropped = [f"{count(n)} {words(reason)}" for reason, n in data["dropped"].items() if n]
            name = f"{run['label']} {model['name']}" if len(runs) > 1 else model["name"]
            rows.append([cell(name), cell(", ".join(used)), cell(", ".join(dropped) or "none")])
    return {
        "title": "Training examples",
        "note": "Examples that do not fit max_length are dropped, not cut.",
        "header": ["model", "used", "dropped"],
        "rows": rows,
    }
