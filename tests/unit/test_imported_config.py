"""`import_hf.path` describes the model: what a config takes from the directory, and what it refuses."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from nemo_srlm.cli import main
from nemo_srlm.config.compose import compose, load_resolved_config, save_resolved_config
from nemo_srlm.config.fields import identity
from nemo_srlm.config.generation import CandidatesSection
from nemo_srlm.config.schema import Config
from nemo_srlm.convert import hf_config
from nemo_srlm.convert.describe import describe
from nemo_srlm.errors import CheckpointError, ConfigError
from nemo_srlm.stages.common.responding import check_room
from tests.unit import tiny_llama

MODEL = replace(
    tiny_llama.SIZES, num_query_groups=2, head_dim=24, rope_theta=5000.0, tie_embeddings=True, max_length=96
)
TEMPLATE = "{% for m in messages %}{{ bos_token + m['content'] }}{% endfor %}"


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    directory = tmp_path / "hf"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(hf_config.render(MODEL, "bf16", {})))
    return directory


def composed(hf: Path, *overrides: str, name: str = "llama2_70b") -> Config:
    return compose(name, [f"import_hf.path={hf}", *overrides], describe=describe)


def test_the_path_is_enough(hf: Path):
    cfg = composed(hf)
    assert cfg.model == MODEL
    assert (cfg.sft.max_length, cfg.dpo.max_length) == (96, 96)
    assert cfg.chat == Config().chat  # a directory without a template: the strings


def test_completions_leave_positions_for_a_prompt(hf: Path):
    cfg = composed(hf, "eval.max_tokens=90", name="real")
    assert [getattr(cfg, name).max_tokens for name in ("prompts", "candidates", "judge", "eval")] == [24, 24, 24, 90]
    for name in ("candidates", "eval"):  # what is stated and leaves none is refused when a run begins
        with pytest.raises(ConfigError, match=rf"{name}\.max_tokens: 96; expected less than 96, .*to 24"):
            check_room(composed(hf, f"{name}.max_tokens=96"), name, CandidatesSection(max_tokens=96))


def test_a_directory_with_a_chat_template_is_used_with_it(hf: Path):
    (hf / "chat_template.jinja").write_text(TEMPLATE)
    assert composed(hf).chat.format == "model"
    assert composed(hf, "chat.arguments={enable_thinking: false}").chat.arguments == {"enable_thinking": False}
    assert composed(hf, "chat.format=strings", "chat.user_prefix=Q").chat.user_prefix == "Q"


def test_what_the_run_found_is_in_its_resolved_config(hf: Path, tmp_path: Path):
    (hf / "chat_template.jinja").write_text(TEMPLATE)
    save_resolved_config(composed(hf), tmp_path / "run")
    (hf / "config.json").unlink()  # workers read the run's config alone
    loaded = load_resolved_config(tmp_path / "run")
    assert (loaded.model, loaded.chat.format) == (MODEL, "model")


def test_the_fingerprint_of_a_stated_architecture_is_that_of_the_same_one_imported(hf: Path):
    stated = [f"model.{k}={v}" for k, v in asdict(MODEL).items() if v != {}]
    assert identity(composed(hf, *stated).model) == identity(compose("llama2_70b", stated).model)
    full = replace(MODEL, head_dim=16)  # stated, where config.json's 16 is the default of 64 / 4
    (hf / "config.json").write_text(json.dumps(hf_config.render(full, "bf16", {})))
    assert composed(hf).model.head_dim == 0
    assert composed(hf, "model.head_dim=16").model.head_dim == 16


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.num_layers=5"], r"model\.num_layers: 5, but .*hf is a model with 4; .*'~model'"),
        (["model.rope_scaling={rope_type: linear, factor: 2}"], r"model\.rope_scaling: .*is a model with \{\}"),
        (["sft.max_length=97"], r"sft\.max_length: 97; expected at most the 96 positions of .*hf"),
        (["chat.format=model"], r"chat\.format: model, but .*hf has no chat template"),
        (["chat.arguments={a: 1}"], r"chat\.arguments: set, but .*hf has no chat template"),
    ],
)
def test_what_contradicts_the_model_is_refused(hf: Path, overrides: list[str], said: str):
    with pytest.raises(ConfigError, match=said):
        composed(hf, *overrides)


def test_strings_beside_the_models_own_template_are_refused(hf: Path):
    (hf / "chat_template.jinja").write_text(TEMPLATE)
    with pytest.raises(ConfigError, match=r"chat\.arguments: .* with chat\.format=strings"):
        composed(hf, "chat.format=strings", "chat.arguments={a: 1}")
    with pytest.raises(ConfigError, match=r"chat\.user_prefix: set, but .*has a chat template.*chat\.format=strings"):
        composed(hf, "chat.user_prefix=Q")


def test_a_configs_own_architecture_gives_way_when_it_is_removed(hf: Path):
    with pytest.raises(ConfigError, match=r"model\.num_layers: 32"):
        composed(hf, name="llama2_7b")
    assert composed(hf, "~model", name="llama2_7b").model == MODEL


def test_execution_settings_of_the_model_stay(hf: Path):
    assert composed(hf, "model.vocab_multiple=64").model.vocab_multiple == 64


def test_a_directory_that_is_no_model_is_refused_and_an_absent_one_is_left_to_the_import(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        composed(tmp_path)
    assert composed(tmp_path / "absent").model == Config().model


@pytest.mark.parametrize(
    "setting",
    [
        "import_hf.path={hf}",
        "seed.files=[{hf}/x.jsonl]",
        "seed.chat_files=[{hf}/x.jsonl]",
        "prompts.files=[{hf}/x.txt]",
    ],
)
def test_what_the_tiny_world_would_ignore_is_refused(hf: Path, setting: str, capsys: pytest.CaptureFixture[str]):
    assert main(["run", setting.format(hf=hf)]) == 2
    assert "in the tiny world, which makes its own model and data" in capsys.readouterr().err


def test_until_a_stage_that_the_run_does_not_have_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["run", "--until", "import_hf", f"run.root={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert "--until: import_hf; expected a stage of this run: world, seed, pretrain, " in said
    assert list(tmp_path.iterdir()) == []


def test_the_template_of_tokenizer_config_counts_too(hf: Path):
    (hf / "tokenizer_config.json").write_text(json.dumps({"chat_template": [
        {"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE},
    ]}))  # fmt: skip
    assert composed(hf).chat.format == "model"


def test_more_tokens_for_the_engine_than_the_directory_has_positions_are_refused(hf: Path):
    assert composed(hf, "generate.max_model_len=96").generate.max_model_len == 96
    with pytest.raises(ConfigError, match=r"generate\.max_model_len: 97; expected at most the model's 96 positions"):
        composed(hf, "generate.max_model_len=97")
