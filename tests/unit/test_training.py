"""Shared code of the training stages: examples that are used only for the validation loss."""

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.errors import ConfigError
from nemo_srlm.stages.common.training import dropped_words, hold_out, trained_tokens, useful_share


def test_held_out_examples_are_drawn_by_the_seed_and_nothing_is_lost():
    items = [f"x{i}" for i in range(50)]
    fitted, held = hold_out(items, 7, "sft.num_validation", 3)
    assert len(held) == 7
    assert sorted(fitted + held) == sorted(items)
    assert fitted == [x for x in items if x not in held]
    assert (fitted, held) == hold_out(items, 7, "sft.num_validation", 3)
    assert held != hold_out(items, 7, "sft.num_validation", 4)[1]
    assert hold_out(items, 0, "sft.num_validation", 3) == (items, [])
    assert hold_out([], 5, "sft.num_validation", 3) == ([], [])


def test_holding_out_everything_is_refused():
    with pytest.raises(ConfigError, match=r"dpo\.num_validation: 4; expected less than the 4 examples"):
        hold_out(list("abcd"), 4, "dpo.num_validation", 0)


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        (["dpo.keep_best=true", "dpo.num_validation=9"], r"dpo\.keep_best"),
        (["pretrain.validate_every=5"], r"pretrain\.validate_every"),
        (["sft.keep_best=true", "sft.num_validation=9", "sft.validate_every=5", "select.every=10",
          "select.stages=[sft,dpo]", "select.judge_path=x", "world.split=test"], r"select\.stages"),
    ],
)  # fmt: skip
def test_keep_best_wants_losses_to_choose_by_and_no_second_way_to_choose(overrides: list[str], where: str):
    with pytest.raises(ConfigError, match=where):
        compose("tiny", overrides)


@pytest.mark.parametrize("override", ["sft.validate_every=10", "dpo.num_validation=-1"])
def test_looks_at_a_validation_loss_without_examples_are_refused(override: str):
    with pytest.raises(ConfigError, match="num_validation"):
        compose("tiny", [override])
    assert compose("tiny", ["sft.validate_every=10", "sft.num_validation=20"]).sft.num_validation == 20


def test_dropped_examples_stand_in_the_summary_with_their_reason():
    data = {"used": {"ift": 10, "eft": 6, "of_these_validation": 2}, "dropped": {"too_long": 24, "no_response": 0}}
    assert dropped_words(data) == ", 24 of 40 examples dropped (24 too_long)"
    assert dropped_words({"used": {"pairs": 3}, "dropped": {}}) == ""


def test_the_useful_share_of_a_training_weighs_its_steps_by_their_positions():
    steps = [{"tokens": 90, "useful": 0.9}, {"tokens": 150, "useful": 0.5}]
    assert useful_share(steps) == {"useful": 240 / (100 + 300)}
    assert useful_share([{"tokens": 90}]) == {}, "logged by an older version"


def test_steps_that_are_not_logged_count_among_the_tokens():
    every = [{"step": step, "tokens": 90 + step} for step in range(1, 31)]
    assert trained_tokens(every) == sum(line["tokens"] for line in every)
    assert trained_tokens([every[9], every[19], every[22]]) == round((100 + 110 + 113) / 3 * 23)
