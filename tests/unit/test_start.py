"""Where a run starts: the stages and models of every combination of run.start, eft.source and arm."""

from itertools import product

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.config.schema import Config
from nemo_srlm.core.pipeline import evaluated_models, evaluated_name, export_ref, pipeline, policy_ref
from nemo_srlm.core.stage import Ref
from nemo_srlm.errors import ConfigError
from nemo_srlm.stages import load

STARTS = ("base", "instruct")
SOURCES = ("baseline", "external", "ranks", "none")


def config(start: str, source: str, arm: str = "self", always: bool = False, every: int = 0) -> Config:
    cfg = Config()
    cfg.run.start, cfg.eft.source, cfg.run.arm, cfg.select.every = start, source, arm, every
    cfg.seed.files, cfg.eval.kl, cfg.eval.preferences = ["x"], True, ["y"]
    cfg.eval.baseline = "always" if always else "needed"
    return cfg


@pytest.mark.parametrize(("start", "source", "arm"), product(STARTS, SOURCES, ("self", "sft_only", "external")))
def test_every_stage_comes_after_its_inputs_and_nothing_is_made_that_nobody_reads(start: str, source: str, arm: str):
    for always, every in product((False, True), (0, 10)):
        cfg = config(start, source, arm, always, every)
        refs, seen, read = pipeline(cfg), set(), set()
        for ref in refs:
            inputs = set(load(ref.stage).inputs(cfg, ref.iteration).values())
            assert inputs <= seen, f"{ref} reads what comes after it"
            seen.add(ref)
            read |= inputs
        assert len(seen) == len(refs)
        unread = {str(ref) for ref in seen - read if ref.stage != "report"}
        assert unread <= {"iter0/export_base"}  # M0 for vLLM: the writer of prompts, benchmarks


@pytest.mark.parametrize(
    ("start", "source", "models", "absent"),
    [
        ("base", "baseline", ["baseline", "M1", "M2", "M3"], set()),
        ("base", "external", ["M1", "M2", "M3"], {"baseline", "export_baseline"}),
        ("base", "ranks", ["M1", "M2", "M3"], {"baseline", "export_baseline"}),
        ("base", "none", ["M1", "M2", "M3"], {"baseline", "eft"}),
        ("instruct", "baseline", ["M0", "M1", "M2", "M3"], {"baseline"}),
        ("instruct", "ranks", ["M0", "M1", "M2", "M3"], {"baseline"}),
        ("instruct", "none", ["M1", "M2", "M3"], {"baseline", "eft", "sft"}),
    ],
)
def test_each_start_has_its_models_and_no_stage_without_use(
    start: str, source: str, models: list[str], absent: set[str]
):
    cfg = config(start, source)
    assert [name for name, _, _ in evaluated_models(cfg, 2)] == models
    stages = {ref.stage for ref in pipeline(cfg)}
    assert not absent & stages
    assert ("eval_h2h" in {ref.stage for ref in pipeline(cfg) if not ref.iteration}) == (len(models) == 4)
    for name, t, suffix in evaluated_models(cfg, 2):
        assert Ref(f"eval_responses{suffix}", t) in pipeline(cfg)
        assert evaluated_name(cfg, f"eval_alpaca{suffix}", t) == name


def test_an_instruct_model_without_eft_goes_into_the_first_iteration_as_it_is():
    cfg = config("instruct", "none")
    assert policy_ref(cfg, 0) == Ref("import_hf", 0)
    assert export_ref(cfg, 0) == Ref("export_base", 0)
    assert load("candidates").inputs(cfg, 1)["model"] == Ref("export_base", 0)
    assert load("dpo").inputs(cfg, 1)["policy"] == Ref("import_hf", 0)
    assert load("eval_kl").inputs(cfg, 1)["previous"] == Ref("export_base", 0)


def test_the_baseline_is_made_where_it_is_asked_for():
    assert Ref("baseline", 0) in pipeline(config("base", "external", always=True))
    assert Ref("baseline", 0) in pipeline(compose("tiny"))
    assert Ref("baseline", 0) not in pipeline(config("base", "none", always=True))  # it would be M1 once more


def test_no_model_is_measured_as_a_judge_where_none_judges():
    stages = [{ref.stage for ref in pipeline(config("base", source, "external"))} for source in ("none", "ranks")]
    assert ["eval_reward" in found for found in stages] == [False, True]


def test_an_instruct_model_is_tuned_on_eft_alone():
    inputs = load("sft").inputs(config("instruct", "ranks"), 0)
    assert set(inputs) == {"base", "tokenizer", "eft"}
    assert set(load("sft").inputs(config("base", "none"), 0)) == {"base", "tokenizer", "seed"}
    assert load("eft").inputs(config("instruct", "baseline"), 0)["model"] == Ref("export_base", 0)


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        (["world.enabled=true", "run.start=instruct"], r"run\.start: instruct in the tiny world"),
        (["run.start=instruct", "seed.chat_files=[x.jsonl]"], r"seed\.chat_files: .*run\.start=base"),
        (["eft.source=none", "dpo.replay_weight=0.3"], r"dpo\.replay_weight"),
        (["judge.lead_in='Score: '"], r"judge\.lead_in: 'Score: ' with judge\.method=sampled"),
        (["eft.source=none", "eft.num_meta=9"], r"eft\.num_meta: 9 with eft\.source=none"),
        (["eft.justification=Good."], r"eft\.justification: a text, with eft\.source=baseline"),
        (["eft.source=ranks", "eft.justification=Good.", "judge.method=expected", "judge.lead_in='Score: '"],
         r"eft\.justification: a text, with judge\.lead_in='Score: '"),
        (["pairs.files=[x.jsonl]"], r"pairs\.files: .*with run\.arm=self, .*run\.arm=external"),
        (["world.enabled=true", "chat.arguments={a: 1}"], r"chat\.arguments: \{'a': 1\} with chat\.format=strings"),
        (["prompts.num_prompts=0"], r"prompts\.num_prompts: 0, with prompts\.source=written"),
        (["world.enabled=true", "prompts.source=file"], r"prompts\.source: file in the tiny world"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(overrides: list[str], where: str):
    with pytest.raises(ConfigError, match=where):
        compose("llama2_7b", overrides)


def test_the_documented_command_composes():
    cfg = compose("real", ["import_hf.path=/models/x", "prompts.files=[prompts.jsonl]"])
    assert [ref.stage for ref in pipeline(cfg) if ref.iteration == 0] == [
        "seed", "import_hf", "export_base", "held_out", "eval_responses_base", "report"
    ]  # fmt: skip
