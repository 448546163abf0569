"""Training curves: metrics.jsonl of a training stage, averaged down to MAX_POINTS points."""

import math
from typing import Any

from nemo_srlm.core.files import read_json_lines
from nemo_srlm.core.pipeline import model_name
from nemo_srlm.errors import DataError
from nemo_srlm.report.run_files import Data, RunFiles

MAX_POINTS = 240
TITLES = {"pretrain": "M0", "baseline": "SFT baseline"}


def read(files: RunFiles, iteration: int, stage: str) -> Data | None:
    """{"title", "stage", "iteration", "steps": [...], "series": {name: [value | None, ...]}}; None without a curve.

    Longer curves are averaged over equal numbers of steps, so that a spike stays visible.
    """
    path = files.path(iteration, stage, "metrics.jsonl")
    if path is None:
        return None
    by_step: dict[int, dict[str, object]] = {}
    for number, data in read_json_lines(path):
        if (
            not isinstance(data, dict)
            or type(data.get("step")) is not int
            or not isinstance(data.get("validation", {}), dict)
        ):
            raise DataError(f"{path}:{number}", "no line of metrics", 'an object with "step"')
        # training and validation each write a line per step
        by_step.setdefault(data["step"], {}).update(_flat(data))
    ordered = [by_step[step] for step in sorted(by_step)]
    names = sorted({k for row in ordered for k, v in row.items() if k != "step" and _finite(v) is not None})
    if not ordered or not names:
        return None
    width = math.ceil(len(ordered) / MAX_POINTS)
    buckets = [ordered[i : i + width] for i in range(0, len(ordered), width)]
    return {
        "title": TITLES[stage] if stage in TITLES else model_name(iteration),
        "stage": stage,
        "iteration": iteration,
        "num_steps": len(ordered),
        "steps": [bucket[-1]["step"] for bucket in buckets],
        "series": {name: [_mean([row.get(name) for row in bucket]) for bucket in buckets] for name in names},
    }


def _flat(data: dict[str, Any]) -> dict[str, object]:
    """`{"validation": {"loss": 1}}` -> `{"validation_loss": 1}`."""
    nested = {f"validation_{k}": v for k, v in data.get("validation", {}).items()}
    return {k: v for k, v in data.items() if not isinstance(v, dict)} | nested


def _finite(value: object) -> float | None:
    """A number that can be drawn: a loss that overflowed is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _mean(values: list[object]) -> float | None:
    found = [v for value in values if (v := _finite(value)) is not None]
    return sum(found) / len(found) if found else None
