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


EXTERNAL = ["run.arm=external", "pairs.files=[x.jsonl]", "eft.source=none"]
SFT_ONLY = ["run.arm=sft_only"]
UNREAD: list[tuple[str, list[str], list[str]]] = [  # setting, beside what nothing reads it, beside what it is read
    ("pairs.answer=boxed", [], ["pairs.score=judge_vote"]),
    ("pairs.vote_weight=2", ["pairs.score=vote"], ["pairs.score=judge_vote"]),
    *(
        (f"pairs.{x}", EXTERNAL, [])
        for x in ("min_best=1", "min_margin=1", "max_per_prompt=2", "rule=length_controlled")
    ),
    ("pairs.rho=0.1", EXTERNAL, ["pairs.rule=length_controlled"]),
    *((f"dpo.{x}", SFT_ONLY, []) for x in ("loss=ipo", "reference=m1", "pairs_from=all", "label_smoothing=0.1")),
    ("dpo.length_normalised=true", ["dpo.loss=simpo"], []),
    ("api.url=http://h/v1", [], ["api.stages=[judge]", "api.model=m"]),
    ("prompts.writer_path=x", ["prompts.writer=policy"], []),
    ("select.judge_path=x", [], ["select.every=10", "select.prompts=x.jsonl"]),
    ("eft.num_meta=2", ["eft.source=none"], []),
    ("judge_training.share=0.1", [], ["judge_training.method=meta"]),
]


@pytest.mark.parametrize(("setting", "beside", "where_read"), UNREAD)
def test_what_nothing_reads_is_refused(setting: str, beside: list[str], where_read: list[str]):
    compose("llama2_70b", [setting, *where_read])
    key = setting.partition("=")[0]
    said = refused([setting, *beside])
    assert said.startswith(f"{key}: ")
    assert "with which nothing reads it; expected " in said
    assert f"leave {key} out, or set " in said


def test_what_the_tiny_world_sets_for_all_of_its_arms_is_no_mistake():
    for arm in (["run.arm=external", "pairs.files=[x.jsonl]"], SFT_ONLY, ["run.arm=random"], ["run.arm=oracle"], []):
        compose("tiny", arm)
