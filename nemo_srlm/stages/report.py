"""report: report.html, report.md and report.json in the run directory, from everything of the run that is finished.

Made after the evaluations of each iteration, and again at the end. The HTML is in the run directory, where people look for it;
the stage's directory has copies, which its manifest lists. `nemo-srlm report` writes the same at any time, also for an
unfinished run. The stage also sends evaluations, tables, samples and the page to the trackers (report/tracking.py), and
brings the figures of the exports' model cards up to date.
"""

import shutil
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.pipeline import evaluations, first_evaluations
from nemo_srlm.core.stage import PLAN, Context, Ref, Stage
from nemo_srlm.core.trackers import BOARD, check, open_trackers, projects_of

FILES = ("report.html", "report.md", "report.json")


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    """The evaluations of all models up to the iteration's: everything else is before them."""
    found = {f"{ref.stage}_{t}": ref for t in range(iteration + 1) for ref in evaluations(cfg, t)}
    return found | {ref.stage: ref for ref in first_evaluations(cfg)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return {}


def _run(ctx: Context) -> None:
    from nemo_srlm.report import cards, mt_bench_files
    from nemo_srlm.report.run_files import RunFiles
    from nemo_srlm.report.tracking import publish
    from nemo_srlm.report.write import read_runs, write_runs

    run_dir, page = ctx.dir.parents[1], ctx.dir / FILES[0]
    runs = read_runs([run_dir])
    write_runs(runs, page)
    for name in FILES:
        shutil.copyfile(ctx.dir / name, run_dir / name)
    mt_bench_files.write(RunFiles(run_dir))
    cards.refresh(RunFiles(run_dir), runs[0])
    shutil.rmtree(ctx.dir / BOARD, ignore_errors=True)  # of an attempt before this one: everything is sent anew
    plan = ctx.dir / PLAN  # what the evaluations are: another attempt at the same continues its run
    trackers = open_trackers(
        ctx.dir, projects_of(ctx.cfg), key=plan.read_text(encoding="utf-8") if plan.exists() else ""
    )
    publish(runs[0], page, trackers)
    trackers.close()


def _finalize(ctx: Context) -> dict[str, Any]:
    return {"files": list(FILES), "summary": str(ctx.dir.parents[1] / FILES[0])}


def _check(cfg: Config) -> None:
    check(projects_of(cfg))


STAGE = Stage("report", "cpu", _inputs, _identity, _run, _finalize, check=_check, derived=True)
