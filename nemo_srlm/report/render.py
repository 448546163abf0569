"""report.json's data as one self-contained HTML page: no request leaves the reader's machine."""

import functools
import re
import time
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any

from nemo_srlm import __version__
from nemo_srlm.evaluate import paper
from nemo_srlm.report import benchmarks, figures, summary
from nemo_srlm.report.display import duration
from nemo_srlm.report.numbers import (
    METRIC_NAMES,
    axis_value,
    compact,
    count,
    decimal,
    metric_value,
    moment,
    percent,
    points,
    signed,
    words,
)
from nemo_srlm.report.run_files import Data

if TYPE_CHECKING:
    from jinja2 import Template


@functools.cache
def template() -> "Template":
    """The page's template, compiled once a process."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("nemo_srlm.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    filters: list[Callable[..., Any]] = [
        percent,
        decimal,
        points,
        signed,
        axis_value,
        metric_value,
        count,
        compact,
        moment,
        words,
        duration,
    ]
    environment.filters.update({f.__name__: f for f in filters} | {"safe_svg": Markup})
    return environment.get_template("template.html")


def html(runs: list[Data]) -> str:
    """The page for one run, or for several beside each other (the first is the one that the summary speaks of)."""
    from markupsafe import Markup

    main = runs[0]
    files = resources.files("nemo_srlm.report")
    page = template().render(
        runs=runs,
        main=main,
        version=__version__,
        generated=moment(time.time()),
        css=Markup(files.joinpath("style.css").read_text(encoding="utf-8")),
        js=Markup(files.joinpath("report.js").read_text(encoding="utf-8")),
        headline=summary.headline(main),
        axes=summary.axes(main),
        control=summary.control_sentence(main, runs[1:]),
        arms=summary.ARMS,
        figures={name: Markup(svg) for name, svg in figures.all_of(runs).items()},
        training=figures.training(main),
        histograms=[(r["policy"], Markup(svg)) for r in main["rounds"] if (svg := figures.histogram(r))],
        paper=paper,
        metric_names=METRIC_NAMES,
        matrix=time_table(main),
        benchmarks=benchmarks.tables(runs),
        alarms=[(run, alarm) for run in runs for alarm in run["alarms"]],
    )
    return re.sub(r"\n\s*\n+", "\n", page)


def time_table(run: Data) -> Data:
    """Seconds by stage (rows, in the order of the pipeline) and iteration (columns), with totals."""
    names = list(dict.fromkeys(s["stage"] for s in run["stages"]))
    iterations = sorted({s["iteration"] for s in run["stages"]})
    by_key = {(s["stage"], s["iteration"]): s for s in run["stages"]}
    longest = max((s["seconds"] or 0.0 for s in run["stages"]), default=0.0) or 1.0
    rows = []
    for name in names:
        cells = [by_key.get((name, t)) for t in iterations]
        known = [c for c in cells if c is not None]
        tokens = [c["tokens"] for c in known if c["tokens"] is not None]
        seconds = sum(c["seconds"] or 0.0 for c in known)
        devices = [c["device_hours"] for c in known if c["device_hours"] is not None]
        rows.append(
            {
                "name": name,
                "cells": [
                    None
                    if c is None
                    else {"seconds": c["seconds"], "share": (c["seconds"] or 0.0) / longest, "reused": c["reused"]}
                    for c in cells
                ],
                "seconds": seconds,
                "tokens": sum(tokens) if tokens else None,
                "device_hours": sum(devices) if devices else None,
            }
        )
    totals = [sum(s["seconds"] or 0.0 for s in run["stages"] if s["iteration"] == t) for t in iterations]
    spent = [row["device_hours"] for row in rows if row["device_hours"] is not None]
    made = [row["tokens"] for row in rows if row["tokens"] is not None]
    return {
        "iterations": iterations, "rows": rows, "totals": totals, "total": sum(totals),
        "device_hours": sum(spent) if spent else None, "tokens": sum(made) if made else None,
    }  # fmt: skip
