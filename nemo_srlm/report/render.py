"""report.json's data as one self-contained HTML page: it loads nothing from the network."""

import functools
import re
import time
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any

from nemo_srlm import __version__
from nemo_srlm.evaluate import paper
from nemo_srlm.evaluate.statistics import MIN_UNITS
from nemo_srlm.report import (
    benchmarks,
    comparisons,
    costs,
    figures,
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
    estimate,
    interval,
    metric_value,
    moment,
    percent,
    points,
    signed,
    unbroken,
    words,
)
from nemo_srlm.report.run_files import Data

if TYPE_CHECKING:
    from jinja2 import Template


@functools.cache
def template() -> "Template":
    """The page's template, compiled once per process."""
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
        unbroken,
        axis_value,
        estimate,
        interval,
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
    """The page for one run, or for several side by side; the summary is about the first."""
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
        headline=(f"{main['label']}: " if len(runs) > 1 else "") + summary.headline(main),
        axes=summary.axes(main),
        notices=comparisons.notices(runs),
        comparisons=[*comparisons.models(runs), *comparisons.runs_and_seeds(runs)],
        beside=summary.beside,
        self_judged=summary.self_judged,
        ranker=summary.ranker(main),
        min_units=MIN_UNITS,
        control=summary.control_sentence(main, runs[1:]),
        arms=summary.ARMS,
        figures=figures.all_of(runs),
        training=figures.training(main),
        kl=figures.all_of([main])["kl"],
        preference_training=preference_training.tables(runs),
        histograms=[(r["policy"], chart) for r in main["preference_data"] if (chart := figures.histogram(r))],
        paper=paper,
        model_tables=model_tables.models(runs),
        judging=model_tables.judging(runs),
        families=model_tables.by_family(runs),
        responses=model_tables.responses(runs),
        matrix=costs.time_table(main),
        benchmarks=[*benchmarks.tables(runs), *preference_files.tables(runs), *nlp.tables(runs)],
        data_tables=training_data.tables(runs),
        lineage=summary.lineage(main),
        comparing=summary.comparing(main),
        alarms=[(run, alarm) for run in runs for alarm in run["alarms"]],
    )
    return re.sub(r"\n\s*\n+", "\n", page)
