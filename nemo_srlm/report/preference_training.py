"""What preference training did to the log-probabilities of the responses, as a table: the first look at a DPO run.

A training can raise the margin while both responses become less likely ("likelihood displacement", arXiv 2410.08847).
Tables as in benchmarks.py.
"""

from collections.abc import Sequence

from nemo_srlm.report.benchmarks import cell
from nemo_srlm.report.numbers import count, decimal, percent, signed
from nemo_srlm.report.run_files import Data, figure


def tables(runs: Sequence[Data]) -> list[Data]:
    """A table with a row per model that was trained on preferences; none without such a model."""
    rows = [
        _row(f"{run['label']} {m['name']}" if len(runs) > 1 else m["name"], m, run["beta"])
        for run in runs
        for m in run["models"]
        if m["training"] is not None and "chosen_logp" in m["training"].get("last", {})
    ]
    table = {
        "title": "What preference training moved",
        "note": "Means of the last 20 logged steps. Moved: log-probability of the responses minus that under the reference, "
        "in nats per response (per token with dpo.length_normalised). Chosen below 0 is likelihood displacement: the chosen "
        "responses became less likely, too. Margin and accuracy are of the pairs in training. KL: to the previous policy, per "
        "token, on its own held-out responses; a dash: not measured (eval.kl=true does).",
        "header": [
            "model", "pairs", "chosen, moved", "rejected, moved", "margin", "accuracy", "chosen, nats", "rejected, nats",
            "KL, nats per token",
        ],
        "rows": rows,
    }  # fmt: skip
    return [table] if rows else []


def _row(name: str, model: Data, beta: float) -> list[dict[str, str]]:
    first, last = model["training"]["first"], model["training"]["last"]
    moved = [last[f"{side}_reward"] / beta if model["reference"] else None for side in ("chosen", "rejected")]
    kl, used = figure(model["kl"], "kl"), model["training"]["data"]["used"]
    return [
        cell(name),
        cell(count(used["pairs"] + used.get("judge_pairs", 0))),
        cell("–" if moved[0] is None else signed(moved[0], "score"), "displaced" if (moved[0] or 0.0) < 0 else ""),
        cell("–" if moved[1] is None else signed(moved[1], "score")),
        cell(signed(last["margin"], "correlation")),
        cell(percent(last["accuracy"])),
        *(cell(decimal(last[key]), f"first step {decimal(first[key])}") for key in ("chosen_logp", "rejected_logp")),
        cell(decimal(kl, 4)),
    ]
