"""The files of a run directory, as the report reads them."""

import math
from pathlib import Path
from typing import Any

from nemo_srlm.config.compose import load_resolved_config
from nemo_srlm.config.schema import Config
from nemo_srlm.core import manifest
from nemo_srlm.evaluate import annotations

Data = dict[str, Any]


def number(data: Data | None, name: str) -> float | None:
    """A finite number of foreign data, None where it is absent or something else."""
    value = None if data is None else data.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


class RunFiles:
    """A run directory with the manifests of its finished stages, read once."""

    def __init__(self, run_dir: Path) -> None:
        self.dir = run_dir
        self.cfg: Config = load_resolved_config(run_dir)
        self.manifests: dict[tuple[int, str], manifest.Manifest] = {}
        for path in sorted(run_dir.glob("iter*/*/" + manifest.NAME)):
            done = manifest.read(path.parent)
            iteration = path.parent.parent.name.removeprefix("iter")
            if done is not None and iteration.isdigit():
                self.manifests[int(iteration), path.parent.name] = done
        self.annotations = annotations.of_run(run_dir)

    def path(self, iteration: int, stage: str, name: str) -> Path | None:
        """A file of a FINISHED stage; None where the stage or the file is not there."""
        path = self.dir / f"iter{iteration}" / stage / name
        return path if (iteration, stage) in self.manifests and path.exists() else None

    def judgements(self, iteration: int) -> Path | None:
        """The judgements that made the round's pairs: the policy's, or in the arm "oracle" the oracle's."""
        stage = "oracle_scores" if self.cfg.run.arm == "oracle" else "judge"
        return self.path(iteration, stage, "judgements.jsonl")

    def metrics(self, iteration: int, stage: str) -> Data | None:
        done = self.manifests.get((iteration, stage))
        return None if done is None else done.metrics
