"""TensorBoard files as TensorBoard reads them; errors when Weights & Biases is requested and not available."""

import importlib.util
from pathlib import Path

import pytest

from nemo_srlm.errors import ConfigError
from nemo_srlm.train import trackers


def read(directory: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory / trackers.BOARD)).Reload()
    return {tag: [(e.step, round(e.value, 4)) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_number_of_a_line_is_a_scalar_and_a_resumed_run_has_no_step_twice(tmp_path: Path):
    tracker = trackers.Tracker(tmp_path)
    for step in (1, 2, 3):
        tracker.log({"step": step, "loss": 1.0 / step, "per": {"loss": "token"}})
    tracker.close()
    again = trackers.Tracker(tmp_path, first_step=2)  # step 3 was lost when the process ended
    again.log({"step": 3, "loss": 0.25})
    again.log({"step": 3, "validation": {"accuracy": 0.5}, "per": {}})
    again.close()
    assert read(tmp_path) == {"loss": [(1, 1.0), (2, 0.5), (3, 0.25)], "validation/accuracy": [(3, 0.5)]}


def test_event_files_are_logs_and_never_outputs(tmp_path: Path):
    from nemo_srlm.core import manifest, outputs

    trackers.Tracker(tmp_path).close()
    assert list(tmp_path.rglob("events.out.tfevents*"))
    assert outputs.describe(tmp_path, manifest.NAME) == {}


def test_weights_and_biases_that_is_not_there_is_refused_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    trackers.check("")
    with pytest.raises(ConfigError, match=r"run\.wandb: 'mine', but the package wandb is not installed"):
        trackers.check("mine")
