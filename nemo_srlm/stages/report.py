"""report: report.html, report.md and report.json in the run directory, from everything of the run that is finished.

The HTML lies in the run directory, where people look for it; this stage's own directory keeps copies, so that its
manifest says which report it was. `nemo-srlm report` writes the same at any time, also of an unfinished run.
"""

import shutil
from typing import Any

from nemo_srlm.config import Config
from nemo_srlm.stage import Context, Ref, Stage

FILES = ("report.html", "report.md", "report.json")


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    """The last of each model's evaluations: everything else is before them."""
    oracle = ("eval_oracle",) if cfg.world.enabled else ()
    names = ("eval_responses", "eval_reward", *oracle, "eval_h2h")
    found = {f"{name}_{t}": Ref(name, t) for t in range(cfg.iterations + 1) for name in names}
    baseline = (f"{name}_baseline" for name in ("eval_responses", "eval_reward", *oracle))
    return found | {name: Ref(name, 0) for name in baseline}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return {}


def _run(ctx: Context) -> None:
    from nemo_srlm.report import write_report

    run_dir = ctx.dir.parents[1]
    write_report([run_dir], ctx.dir / FILES[0])
    for name in FILES:
        shutil.copyfile(ctx.dir / name, run_dir / name)


def _finalize(ctx: Context) -> dict[str, Any]:
    return {"files": list(FILES), "summary": str(ctx.dir.parents[1] / FILES[0])}


STAGE = Stage("report", "cpu", _inputs, _identity, _run, _finalize)
