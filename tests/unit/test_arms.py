"""The control arm sft_only: the same stages up to the pairs, another training of the next model."""

from nemo_srlm.config.compose import compose
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.stage import Ref
from nemo_srlm.stages import load


def test_it_differs_from_the_self_arm_in_the_training_stage_alone():
    ours, theirs = (pipeline(compose("tiny", [f"run.arm={arm}"])) for arm in ("sft_only", "self"))
    assert [Ref("dpo", r.iteration) if r.stage == "sft_chosen" else r for r in ours] == theirs
    assert [r.iteration for r in ours if r.stage == "sft_chosen"] == [1, 2]


def test_a_round_trains_m0_on_the_seed_data_and_all_chosen_responses_so_far_and_is_exported():
    cfg = compose("tiny", ["run.arm=sft_only"])
    inputs = load("sft_chosen").inputs(cfg, 2)
    assert inputs["base"] == load("sft").inputs(cfg, 0)["base"] == Ref("pretrain", 0)
    assert {name: ref for name, ref in inputs.items() if "pairs" in name} == {
        "pairs_1": Ref("pairs", 1), "pairs_2": Ref("pairs", 2),
    }  # fmt: skip
    assert load("export").inputs(cfg, 2)["policy"] == Ref("sft_chosen", 2)
    assert load("export").inputs(cfg, 0)["policy"] == Ref("sft", 0)


def test_its_pairs_are_the_self_arms_so_that_a_run_can_reuse_them():
    ours, theirs = (load("pairs").identity(compose("tiny", [f"run.arm={arm}"]), 1) for arm in ("sft_only", "self"))
    assert ours == theirs
