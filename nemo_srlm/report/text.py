"""The report as plain text: report.md, and the table in the terminal."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from nemo_srlm.core.terminal import visible
from nemo_srlm.evaluate import paper
from nemo_srlm.report import (
    benchmarks,
    comparisons,
    costs,
    model_tables,
    nlp,
    preference_files,
    preference_training,
    summary,
    training_data,
)
from nemo_srlm.report.display import duration
from nemo_srlm.report.numbers import (
    axis_value,
    compact,
    count,
    decimal,
    interval,
    percent,
    points,
    signed,
)
from nemo_srlm.report.run_files import Data

if TYPE_CHECKING:
    from rich.table import Table


def table(run: Data) -> "Table":
    """The terminal's: a row per model, under each value its difference from an earlier model."""
    from rich import markup
    from rich.table import Table

    title = [f"{run['name']} ({summary.ARMS[run['arm']]}, seed {run['seed']})", *comparisons.notices([run])]
    found = Table(
        title=markup.escape("\n".join(title)), caption=markup.escape(summary.headline(run)),
        caption_justify="left", title_justify="left",
    )  # fmt: skip
    for models in model_tables.models([run]):
        for i, name in enumerate(models["header"]):
            found.add_column(name, justify="left" if i == 0 else "right")
        for row in models["rows"]:
            found.add_row(*("\n".join(t for t in (c["text"], c["error"], c["change"]) if t) for c in row))
    return found


def grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table with aligned columns, readable as plain text too. No cell ends its row or column."""
    header, *rows = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return (
            "| "
            + " | ".join(
                c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
            )
            + " |"
        )

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return [line(header), rule, *(line(row) for row in rows)]


def markdown(runs: list[Data]) -> str:
    """report.md. Text of models and files in it is neither HTML nor a control character to whoever renders or prints it."""
    lines = [f"# Report: {', '.join(r['label'] for r in runs)}", ""]
    for notice in comparisons.notices(runs):
        lines += [f"**{notice}**", ""]
    if control := summary.control_sentence(runs[0], runs[1:]):
        lines += [control + ".", ""]
    for run in runs:
        lines += _run(run, title=len(runs) > 1)
    for table in comparisons.runs_and_seeds(runs):
        lines += ["", *_table(table)]
    return escape(visible("\n".join(lines)), quote=False).rstrip() + "\n"


def _run(run: Data, title: bool) -> list[str]:
    state = run["state"]
    lines = [f"## {run['label']}", ""] if title else []
    split = f", {run['split']} split" if run["split"] else ""
    lines += [f"{summary.headline(run)}", ""]
    done = "finished" if not state["missing"] else f"unfinished: {state['done']} of {state['total']} stages"
    lines += [f"Arm: {summary.ARMS[run['arm']]}, seed {run['seed']}{split}; {done}.", ""]
    for tile in summary.axes(run):
        values = ", ".join(f"{v['model']} {axis_value(v['value'], tile['unit'])}" for v in tile["values"])
        if (change := tile["change"]) is not None:
            found = f"{signed(change['value'], tile['unit'])} {interval(change, tile['unit'])}".strip()
            verdict = comparisons.VERDICTS[change["verdict"]]
            if change["verdict"] == "same":
                verdict += f" within ±{summary.amount(tile['margin'], tile['unit'])}"
            values += f"; {tile['first']} to {tile['latest']}: {found}, {verdict}, {change['num']:,} units"
        lines.append(f"- **{tile['title']}** ({tile['help']}): {values}")
    for one in state["lost"]:
        lines.append(f"- **Outputs of {one['stage']} are not as it left them**: {', '.join(one['changed'])}")
    for alarm in run["alarms"]:
        lines.append(f"- **Alarm, {alarm['model']}**: {alarm['text']}")
    for table in (*model_tables.models([run]), *comparisons.models([run]), *model_tables.judging([run])):
        lines += ["", *_table(table)]
    lines += _head_to_head(run) + _tables(run) + _preference_data(run)
    if run["stages"]:
        times = costs.time_table(run)
        lines += ["", "### Time", "", f"{duration(times['total'])} of wall time in finished stages.", ""]
        lines += grid(
            ["stage", "time", "tokens", "device hours"],
            [
                [r["name"], duration(r["seconds"]), compact(r["tokens"]), decimal(r["device_hours"])]
                for r in [*times["rows"], {**times, "name": "all", "seconds": times["total"]}]
            ],
        )
    return [*lines, ""]


def _head_to_head(run: Data) -> list[str]:
    if not run["head_to_head"]:
        return []
    rows = []
    for c in run["head_to_head"]:
        published = paper.head_to_head(c["model"], c["other"])
        theirs = () if published is None else (published.win, published.tie, published.loss)
        shares = [percent(c[k]) for k in ("win", "tie", "loss")]
        beside = "/".join(f"{100 * v:.1f}" for v in theirs) or "–"
        net = "–" if c["net"] is None else f"{points(c['net'])} ({' to '.join(points(v) for v in c['net_interval'])})"
        lengths = "–" if c["words"] is None else f"{c['words']:.1f}/{c['other_words']:.1f}"
        order = c["order_bias"]
        bias = "–" if order is None else f"{percent(order['share_first'], 0)}, {percent(order['contradictions'], 0)}"
        judge = summary.judge_of(c) + (" (self-judged)" if summary.self_judged(c) else "")
        rows.append(
            [f"{c['model']} vs {c['other']}", *shares, net, judge, count(c["prompts"]), count(c["counts"]["unjudged"]), bias,
             lengths, beside]
        )  # fmt: skip
    header = [
        "models",
        "win",
        "tie",
        "loss",
        "win - loss (95%)",
        "judge",
        "prompts",
        "unjudged",
        "first place, orders disagree",
        "words",
        "paper",
    ]
    return ["", "### Head to head", "", summary.comparing(run), "", *grid(header, rows)]


def _tables(run: Data) -> list[str]:
    found = [model_tables.by_family([run]), model_tables.responses([run])]
    rooms = (training_data, benchmarks, preference_files, nlp, preference_training)
    found += [room.tables([run]) for room in rooms]
    return [line for tables in found for table in tables for line in ("", *_table(table))]


def _table(table: Data) -> list[str]:
    return [f"### {table['title']}", "", table["note"], "", *grid(*benchmarks.plain(table))]


def _preference_data(run: Data) -> list[str]:
    if not run["preference_data"]:
        return []
    if run["arm"] == "external":
        made = [
            [f"{r['iteration']} ({r['policy']} to {r['makes']})", count(r["funnel"]["pairs"])]
            for r in run["preference_data"]
        ]
        return [
            "",
            "### Preference data",
            "",
            "Of pairs.files; no model judges.",
            "",
            *grid(["iteration", "pairs"], made),
        ]
    rows = []
    for r in run["preference_data"]:
        f, judging = r["funnel"], r["judging"]
        rows.append(
            [
                f"{r['iteration']} ({r['policy']} to {r['makes']})",
                *(count(f[k]) for k in ("attempts", "accepted", "candidates", "judged", "pairs")),
            ]
            + [percent(judging[k] if judging else None) for k in ("parse_failures", "tie_rate", "high_scores")]
        )
    header = ["iteration", "attempts", "prompts", "candidates", "judged", "pairs", "unparsed", "ties", "4s and 5s"]
    return ["", "### Preference data", "", *grid(header, rows)]
