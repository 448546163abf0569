"""What a run directory holds, for the report: its config, the manifests and files of its finished stages, AlpacaEval rows."""

import re
from pathlib import Path
from typing import Any

from nemo_srlm.config.compose import load_resolved_config
from nemo_srlm.config.schema import Config
from nemo_srlm.core import manifest, outputs
from nemo_srlm.core.pipeline import has_single_scores, score_stage
from nemo_srlm.evaluate import alpaca_rows
from nemo_srlm.judge.scores import required_valid

Data = dict[str, Any]


class RunFiles:
    """A run directory, with the manifests of its finished stages read once.

    cfg: its config, where the caller has it. Raises ConfigError when the directory is not a run's.
    """

    def __init__(self, run_dir: Path, cfg: Config | None = None) -> None:
        self.dir = run_dir
        self.cfg: Config = load_resolved_config(run_dir) if cfg is None else cfg
        self.manifests: dict[tuple[int, str], manifest.Manifest] = {}
        self.lost: dict[tuple[int, str], list[str]] = {}  # finished stages whose outputs have changed: what has
        for directory in sorted(run_dir.glob("iter*/*")):
            iteration = re.fullmatch("iter([0-9]{1,4})", directory.parent.name, re.ASCII)
            done = manifest.read(directory) if iteration and directory.is_dir() else None
            if iteration and done is not None:
                key = int(iteration[1]), directory.name
                self.manifests[key] = done
                if changed := outputs.changes(directory, done.outputs):
                    self.lost[key] = changed
        self.alpaca_rows = alpaca_rows.saved_rows(run_dir)

    def path(self, iteration: int, stage: str, name: str) -> Path | None:
        """A file of a FINISHED stage; None where the stage is not finished, has no such file, or the file has changed."""
        path, key = self.dir / f"iter{iteration}" / stage / name, (iteration, stage)
        changed = any(words.startswith(f"{name} ") for words in self.lost.get(key, ()))
        return path if key in self.manifests and path.is_file() and not changed else None

    def metrics(self, iteration: int, stage: str) -> Data | None:
        """The metrics in a stage's manifest; None where the stage is not finished."""
        done = self.manifests.get((iteration, stage))
        return None if done is None else done.metrics

    def judgements(self, iteration: int) -> Path | None:
        """The judgements behind an iteration's pairs: the policy's, the oracle's, votes, a checker's or a reward model's."""
        return self.path(iteration, score_stage(self.cfg), "judgements.jsonl")

    @property
    def min_valid(self) -> int:
        """Parsed draws that a candidate needs for a score, as in the stage `pairs`: only the judge makes several."""
        return 1 if has_single_scores(self.cfg) else self.min_valid_of_judge

    @property
    def min_valid_of_judge(self) -> int:
        """Parsed draws that a reply needs for a score where a model judges."""
        return required_valid(self.cfg.judge)


def figure(section: Data | None, name: str) -> float | None:
    """A figure of a measurement. None where it was not measured (no section), or where its denominator was 0."""
    value: float | None = None if section is None else section[name]
    return value
