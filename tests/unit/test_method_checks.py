"""Settings of methods that can give no pair, or that nothing reads, are refused before a run begins."""

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.errors import ConfigError

CHECKER = ["pairs.score=checker", "checker.command=[x]"]
WEIGHED = [*CHECKER, "checker.max_score=2", "pairs.weight=margin"]
REWARD_MODEL = ["pairs.score=reward_model", "reward_model.path=x"]
BOTH = ["pairs.score=judge_vote", "pairs.vote_weight=2"]


def refused(settings: list[str]) -> str:
    with pytest.raises(ConfigError) as error:
        compose("llama2_70b", settings)
    return str(error.value)


@pytest.mark.parametrize(
    ("settings", "margin", "best"),
    [([], 5, 5), (["judge.max_score=9"], 9, 9), (["pairs.score=vote"], 1, 1), (BOTH, 7, 7), (WEIGHED, 2, 2)],
)
def test_margins_and_scores_that_no_pair_reaches_are_refused_on_every_scale(
    settings: list[str], margin: int, best: int
):
    for name in ("min_margin", "min_best"):
        compose("llama2_70b", [*settings, f"pairs.{name}={margin - 0.1}"])
    compose("llama2_70b", [*settings, f"pairs.min_best={best}"])
    assert f"pairs.min_margin: {margin}.0 with pairs.score=" in (
        said := refused([*settings, f"pairs.min_margin={margin}"])
    )
    assert f"whose largest score is {margin}; expected less than {margin}" in said
    assert f"expected at most {best}: the best score" in refused([*settings, f"pairs.min_best={best}.1"])


@pytest.mark.parametrize("settings", [CHECKER, REWARD_MODEL])
def test_scores_without_a_scale_have_no_largest_margin(settings: list[str]):
    compose("llama2_70b", [*settings, "pairs.min_margin=50", "pairs.min_best=50"])


def test_two_candidates_have_no_majority():
    compose("llama2_70b", ["pairs.score=vote", "candidates.num=3"])
    compose("llama2_70b", ["pairs.score=judge_vote", "candidates.num=2"])
    assert "candidates.num: 2 with pairs.score=vote" in refused(["pairs.score=vote", "candidates.num=2"])


def test_judge_pairs_need_draws_that_differ():
    compose("llama2_70b", ["judge.temperature=0"])
    for method in ("meta", "self_taught", "any_draw"):
        said = refused([f"judge_training.method={method}", "judge.temperature=0"])
        assert f"judge.temperature: 0 with judge_training.method={method}" in said
