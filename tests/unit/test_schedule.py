"""Trainings that are shorter than their warm-up."""

import dataclasses
import json
from pathlib import Path

import pytest

from nemo_srlm.config.schema import Config
from nemo_srlm.config.training import TrainSection
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.stage import Context
from nemo_srlm.errors import ConfigError
from nemo_srlm.stages import load
from nemo_srlm.train.schedule import check_rate, warmup_steps, warn


@pytest.mark.parametrize(
    ("stage", "section"), [("pretrain", "pretrain"), ("sft", "sft"), ("dpo", "dpo"), ("baseline", "sft")]
)
def test_a_warm_up_that_is_cut_is_said_in_the_log_and_in_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str, section: str
):
    cfg = Config()
    settings = getattr(cfg, section)
    settings.warmup_steps = 4
    warn(stage, settings, 5)
    assert capsys.readouterr().err == ""
    warn(stage, settings, 4)
    assert f"warning: {stage}: warm-up of 3 steps, not 4 ({section}.warmup_steps): it has 4" in capsys.readouterr().err
    assert [warmup_steps(settings, steps) for steps in (1, 4, 5, 9)] == [0, 3, 4, 4]

    directory = tmp_path / "iter1" / stage
    (directory / "checkpoint" / "final").mkdir(parents=True)
    (directory / "data.json").write_text('{"used": {"pairs": 4}, "dropped": {}}')
    for steps, words, cut in ((4, ", warm-up of 3 steps, not 4", 3), (5, "tokens/s", None)):
        line = {"step": steps, "loss": 1.0, "tokens": 9, "tokens_per_s": 9.0, "per": {"loss": "token"}}
        (directory / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        found = load(stage).finalize(Context(cfg, 1, directory, {}, Progress(directory)))
        assert (found["summary"].endswith(words), found.get("warmup_steps")) == (True, cut)


def test_a_single_step_with_the_rate_0_is_refused():
    section = TrainSection(min_lr=0.0)
    with pytest.raises(ConfigError, match=r"sft\.min_lr: 0, and baseline has a single step.*sft\.global_batch"):
        check_rate("baseline", section, 1)
    check_rate("baseline", section, 2)
    for other in ({"schedule": "constant"}, {"min_lr": 1e-6}, {"lr": 0.0}):  # lr=0 is asked for
        check_rate("dpo", dataclasses.replace(section, **other), 1)  # type: ignore[arg-type]
