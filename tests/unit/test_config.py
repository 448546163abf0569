"""The schema: defaults, overrides, refusals, identity against execution, freezing."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose, load_resolved_config, save_resolved_config
from nemo_srlm.config.fields import choice, identity, number, setting
from nemo_srlm.config.schema import Config
from nemo_srlm.errors import ConfigError


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text("model: {num_layers: 2}\ndpo: {lr: 3e-5}\n")
    (tmp_path / "typo.yaml").write_text("dpo: {learning_rate: 3e-5}\n")
    return tmp_path


def test_a_yaml_file_holds_deltas_and_overrides_win(configs: Path):
    cfg = compose("small", ["dpo.beta=0.2", "iterations=4"], configs)
    assert (cfg.model.num_layers, cfg.dpo.lr, cfg.dpo.beta, cfg.iterations) == (2, 3e-5, 0.2, 4)
    assert cfg.candidates.num == Config().candidates.num


def test_the_defaults_are_the_papers_numbers():
    cfg = Config()
    assert (cfg.candidates.num, cfg.candidates.temperature, cfg.candidates.top_p) == (4, 0.7, 0.9)
    assert (cfg.judge.draws, cfg.judge.temperature, cfg.judge.top_p) == (3, 0.7, 0.9)
    assert (cfg.prompts.temperature, cfg.prompts.top_p, cfg.prompts.rouge_max) == (0.6, 0.9, 0.7)
    assert (cfg.prompts.seed_shots, cfg.prompts.generated_shots) == (6, 2)
    assert (cfg.sft.lr, cfg.sft.min_lr, cfg.sft.global_batch, cfg.sft.dropout) == (5.5e-6, 1.1e-6, 16, 0.1)
    assert (cfg.dpo.lr, cfg.dpo.min_lr, cfg.dpo.global_batch, cfg.dpo.beta) == (1e-6, 1e-7, 16, 0.1)


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("small", ["dpo.learning_rate=1"], "learning_rate"),
        ("small", ["dpo.beta=high"], "dpo.beta"),
        ("small", ["dpo.beta=-1"], "dpo.beta"),
        ("small", ["dpo.loss=hinge"], "sigmoid, ipo"),
        ("small", ["judge.min_valid=4"], "judge.min_valid"),
        ("small", ["generate.quantization=int3"], "generate.quantization.*fp8"),
        ("small", ["generate.dtype=half"], "generate.dtype.*float16"),
        ("small", ["generate.engine=openai"], "generate.engine"),
        ("small", ["generate.replicas=0"], "generate.replicas"),
        ("small", ["generate.max_model_len=-1"], "generate.max_model_len.*0 or more"),
        ("small", ["beta"], "key=value"),
        ("typo", [], "learning_rate"),
        ("absent", [], "no absent.yaml"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(configs: Path, name: str, overrides: list[str], words: str):
    with pytest.raises(ConfigError, match=words):
        compose(name, overrides, configs)


def test_execution_settings_never_enter_an_identity():
    cfg = Config()
    before = identity(cfg.judge)
    cfg.judge.shards = 32
    assert identity(cfg.judge) == before
    cfg.judge.temperature = 1.0
    assert identity(cfg.judge) != before
    assert identity(cfg.parallel) == {}


def test_a_frozen_config_thaws_to_the_same_config(configs: Path, tmp_path: Path):
    cfg = compose("small", ["run.name=x", "prompts.keywords=[a,b]"], configs)
    save_resolved_config(cfg, tmp_path / "run")
    assert load_resolved_config(tmp_path / "run") == cfg


def test_thawing_what_is_not_a_run_says_so(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such file"):
        load_resolved_config(tmp_path)


@dataclass
class Grown:
    """A section after a release added two fields to it."""

    loss: str = choice("sigmoid", "ipo")
    margin: float = number(0.5, added=True, at_least=0)
    words: list[str] = setting([], added=True)


@dataclass
class Smaller(Grown):
    margin: float = 0.25


def test_an_added_field_enters_an_identity_only_when_it_is_set():
    assert identity(Grown()) == {"loss": "sigmoid"}
    assert identity(Grown(margin=1.0)) == {"loss": "sigmoid", "margin": 1.0}
    assert identity(Grown(words=["a"])) == {"loss": "sigmoid", "words": ["a"]}
    assert identity(Smaller()) == {"loss": "sigmoid"}, "a subclass keeps the rule of its base"
    assert identity(Smaller(margin=0.5)) == {"loss": "sigmoid", "margin": 0.5}
