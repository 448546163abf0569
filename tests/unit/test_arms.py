"""The control arm sft_only: the same stages up to the pairs, another training of the next model. And the choices of DPO that
the paper leaves open."""

from collections import Counter
from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.core.files import write_records
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import PreferencePair
from nemo_srlm.core.stage import Context, Ref
from nemo_srlm.errors import ConfigError
from nemo_srlm.stages import load
from nemo_srlm.stages.common import preference_examples


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


def test_the_choices_that_the_paper_leaves_open_change_later_iterations_alone():
    """dpo.reference=m1 and dpo.pairs_from=all: inputs of the second iteration; the first is the same training."""
    default, cfg = compose("tiny", []), compose("tiny", ["dpo.reference=m1", "dpo.pairs_from=all"])
    dpo = load("dpo")
    assert dpo.inputs(cfg, 1) == dpo.inputs(default, 1)
    assert all(dpo.identity(cfg, t) == dpo.identity(default, t) for t in (1, 2))
    new = dpo.inputs(cfg, 3).items() - dpo.inputs(default, 3).items()
    assert new == {("reference", Ref("sft", 0)), ("pairs_1", Ref("pairs", 1)), ("pairs_2", Ref("pairs", 2))}
    instruct = compose("real", ["dpo.reference=m1", "import_hf.path=", "prompts.files=[x]"])
    assert dpo.inputs(instruct, 2)["reference"] == Ref("import_hf", 0)  # M1 is M0
    with pytest.raises(ConfigError, match=r"dpo\.reference: m1 with dpo\.loss=simpo"):
        compose("tiny", ["dpo.reference=m1", "dpo.loss=simpo"])


def test_pairs_of_all_iterations_are_trained_on_once_each(tmp_path: Path):
    cfg = compose("tiny", ["dpo.pairs_from=all"])
    inputs = {"pairs_1": tmp_path / "1", "pairs": tmp_path / "2"}
    for directory, names in zip(inputs.values(), ("ab", "bc"), strict=True):
        directory.mkdir()
        write_records(directory / "pairs.jsonl", [PreferencePair(n, n, n, "x", "y", None, None) for n in names])
    dropped: Counter[str] = Counter()
    found = preference_examples.records(Context(cfg, 2, tmp_path, inputs, Progress(tmp_path)), dropped)
    assert [(kind, pair.id) for kind, pair in found] == [("pairs", "a"), ("pairs", "b"), ("pairs", "c")]
    assert dropped == {"duplicate": 1}
