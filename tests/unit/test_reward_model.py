"""The reward model: what is refused, where its stage stands, what a failure leaves. (vLLM: tests/pipeline.)"""

import json
from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.core.pipeline import has_single_scores, pipeline, score_stage
from nemo_srlm.core.stage import Ref
from nemo_srlm.errors import ConfigError
from nemo_srlm.generate.requests import Completion, Failure
from nemo_srlm.judge.judgements import JudgeItem
from nemo_srlm.stages import load, pairs, reward_model

ITEM = JudgeItem("c0", "p", "Name an animal.", "A bear.")


def settings(path: Path) -> list[str]:
    return ["pairs.score=reward_model", f"reward_model.path={path}"]


def write_config(path: Path, **fields: object) -> Path:
    (path / "config.json").write_text(json.dumps(fields))
    return path


def test_its_stage_takes_the_place_of_the_judge(tmp_path: Path):
    cfg = compose("tiny", settings(tmp_path))
    assert (score_stage(cfg), has_single_scores(cfg)) == ("reward_model", True)
    stages = [ref.stage for ref in pipeline(cfg) if ref.iteration == 1]
    assert "judge" not in stages
    assert stages.index("candidates") < stages.index("reward_model") < stages.index("pairs")
    assert pairs.STAGE.inputs(cfg, 1)["judge"] == Ref("reward_model", 1)
    assert load("reward_model").kind == "generate"


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM with 2 labels"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification with 2 labels"),
        ({"architectures": ["X"], "num_labels": 1}, "X with 1 labels"),
        ({}, "no architecture with 2 labels"),
    ],
)
def test_what_is_no_classifier_with_one_label_is_refused(tmp_path: Path, fields: dict[str, object], found: str):
    cfg = compose("tiny", settings(write_config(tmp_path, **fields)))
    with pytest.raises(
        ConfigError, match=rf"reward_model\.path: {found} in .*; expected a sequence classifier with one"
    ):
        reward_model.STAGE.check(cfg)


def test_one_label_by_either_name_is_taken(tmp_path: Path):
    for fields in ({"num_labels": 1}, {"id2label": {"0": "LABEL_0"}}):
        write_config(tmp_path, architectures=["LlamaForSequenceClassification"], **fields)
        reward_model.STAGE.check(compose("tiny", settings(tmp_path)))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["reward_model.path=/rm"], r"reward_model\.path: /rm with pairs\.score=judge, with which nothing reads it"),
        (["pairs.score=reward_model"], r"reward_model\.path: \"\"; expected the HF directory"),
        ([*settings(Path("/rm")), "pairs.weight=margin"], r"pairs\.weight: margin with .*whose logits have no scale"),
        ([*settings(Path("/rm")), "judge.shape=pairwise"], r"judge\.shape: pairwise with pairs\.score=reward_model"),
        (
            [*settings(Path("/rm")), "pairs.consistency=mean"],
            r"pairs\.consistency: mean with pairs\.score=reward_model",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(overrides: list[str], said: str):
    with pytest.raises(ConfigError, match=said):
        compose("tiny", overrides)


def test_a_failure_and_a_score_that_is_none_are_errors_of_their_response():
    found = [
        reward_model._judgement(ITEM, outcome)
        for outcome in (
            Failure("too_long: 9 > 8"), [Completion("", 0, "stop", score=float("nan"))], [Completion("", 0, "stop", score=-1.5)]
        )
    ]  # fmt: skip
    assert [(j.scores, j.error) for j in found] == [
        ((), "too_long: 9 > 8"), ((), "engine: a score of nan"), ((-1.5,), ""),
    ]  # fmt: skip
