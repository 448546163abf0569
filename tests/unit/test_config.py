"""The settings: defaults, overrides, refusals, fingerprints, saved configs, renamed words, and their description."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import pytest

from nemo_srlm.config.checks import check, check_fields
from nemo_srlm.config.compose import compose, load_resolved_config, save_resolved_config
from nemo_srlm.config.describe import describe, settings
from nemo_srlm.config.fields import Rule, choice, identity, number, rules, setting
from nemo_srlm.config.schema import Config
from nemo_srlm.core.manifest import fingerprint
from nemo_srlm.errors import ConfigError
from nemo_srlm.stages import eft, pairs, seed


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


def test_a_saved_config_is_loaded_as_the_same_config(configs: Path, tmp_path: Path):
    cfg = compose("small", ["run.name=x", "prompts.keywords=[a,b]"], configs)
    save_resolved_config(cfg, tmp_path / "run")
    assert load_resolved_config(tmp_path / "run") == cfg


def test_loading_from_what_is_not_a_run_says_so(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such file"):
        load_resolved_config(tmp_path)


@dataclass
class Grown:
    """A section to which a later release added two fields."""

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


# --- one walk checks every field ----------------------------------------------------------------------------------


def _leaves(section: object, where: str = "") -> Iterator[tuple[str, object, Rule]]:
    """(key, value, rule) of every setting of a config."""
    for name, rule in rules(type(section)).items():
        key, value = f"{where}.{name}" if where else name, getattr(section, name)
        if is_dataclass(value):
            yield from _leaves(value, key)
        else:
            yield key, value, rule


def with_value(key: str, value: object) -> Config:
    cfg = Config()
    *path, name = key.split(".")
    section: object = cfg
    for part in path:
        section = getattr(section, part)
    setattr(section, name, value)
    return cfg


SETTINGS = list(_leaves(Config()))
NUMBERS = [(key, rule) for key, value, rule in SETTINGS if type(value) in (int, float)]
FLOATS = [key for key, value, _ in SETTINGS if type(value) is float]
WORDS = [(key, value, rule) for key, value, rule in SETTINGS if rule.choices]


def test_the_defaults_are_allowed():
    check(Config())


def test_every_number_has_a_range_and_every_closed_list_of_words_is_a_choice():
    assert [key for key, rule in NUMBERS if rule.at_least is None and rule.above is None] == []
    assert len(NUMBERS) > 100
    assert len(WORDS) > 20


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", FLOATS)
def test_no_float_may_be_nan_or_infinite(key: str, value: float):
    with pytest.raises(ConfigError, match=f"^{re.escape(key)}: {value}; expected "):
        check_fields(with_value(key, value))


@pytest.mark.parametrize(("key", "rule"), NUMBERS, ids=[key for key, _ in NUMBERS])
def test_every_bound_is_kept(key: str, rule: Rule):
    whole = key not in FLOATS
    step = 1 if whole else 1e-6
    wrong = [
        None if rule.at_least is None else rule.at_least - step,
        rule.above,
        None if rule.at_most is None else rule.at_most + step,
        rule.below,
    ]
    for value in wrong:
        if value is not None:
            with pytest.raises(ConfigError, match=f"^{re.escape(key)}: .*expected {re.escape(rule.allowed())};"):
                check_fields(with_value(key, int(value) if whole else value))
    for value in (rule.at_least, rule.at_most):
        if value is not None:
            check_fields(with_value(key, int(value) if whole else value))


@pytest.mark.parametrize(("key", "value", "rule"), WORDS, ids=[key for key, _, _ in WORDS])
def test_every_choice_refuses_another_word(key: str, value: object, rule: Rule):
    words = re.escape(", ".join(word or '""' for word in rule.choices))
    listed = isinstance(value, list)
    for wrong in ("nonsense", rule.choices[-1].upper()):
        with pytest.raises(ConfigError, match=f"^{re.escape(key)}: .*{wrong}.*expected .*{words};"):
            check_fields(with_value(key, [wrong] if listed else wrong))
    for word in rule.choices:
        check_fields(with_value(key, [word] if listed else word))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("dpo.beta=nan", r"dpo\.beta: nan; expected a finite number, more than 0"),
        ("dpo.nll_weight=inf", r"dpo\.nll_weight: inf; expected a finite number, 0 or more"),
        ("model.num_layers=0", r"model\.num_layers: 0; expected 1 to 10000"),
        ("sft.dropout=1.0", r"sft\.dropout: 1\.0; expected a finite number, 0 or more, less than 1"),
        ("eval.alpaca.top_p=0", r"eval\.alpaca\.top_p: 0\.0; expected a finite number, more than 0, at most 1"),
        ("cluster.hang.work=-1", r"cluster\.hang\.work: -1; expected 0 or more"),
        ("precision.fp8_recipe=slow", "precision.fp8_recipe: 'slow'; expected one of delayed, tensorwise"),
        ("select.stages=[sft,ppo]", r"select\.stages: \['sft', 'ppo'\]; expected a list of sft, dpo, sft_chosen"),
        ("eval.harness.tasks=[]", r"eval\.harness\.tasks: \[\]; expected a list, not empty, of `task` or `task:shots`"),
        (
            'run.name=""',
            "run.name: ''; expected at most 200 letters, digits, dot, _ and -, with no dot and no - in front",
        ),
        ("model.rope_scaling={factor:nan}", r"model\.rope_scaling: \{'factor': nan\}; expected a finite number"),
        ("dpo.beta=-1", "nemo-srlm config --describe dpo.beta"),
        ("dpo.min_lr=1.0", r"dpo\.min_lr: 1\.0; expected at most dpo\.lr"),
    ],
)
def test_a_refusal_names_field_value_and_what_is_allowed(configs: Path, override: str, words: str):
    with pytest.raises(ConfigError, match=words):
        compose("small", [override], configs)


# --- renamed words ------------------------------------------------------------------------------------------------


def test_a_renamed_word_is_read_in_both_spellings_and_recorded_in_the_old_one(configs: Path, tmp_path: Path):
    old, new = (compose("small", [f"run.arm={w}", f"eft.source={w}"], configs) for w in ("given", "external"))
    assert (old.run.arm, old.eft.source) == ("external", "external")
    assert old == new
    assert identity(new.run)["arm"] == identity(new.eft)["source"] == "given"
    save_resolved_config(new, tmp_path)
    saved = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    (tmp_path / "config.yaml").write_text(saved.replace("external", "given"), encoding="utf-8")
    assert load_resolved_config(tmp_path).run.arm == "external"
    with pytest.raises(ConfigError, match="one of self, random, sft_only, external, oracle"):
        compose("small", ["run.arm=best"], configs)


def test_the_fingerprints_of_runs_with_external_data_are_those_they_had_under_the_old_word(tmp_path: Path):
    (tmp_path / "x.jsonl").write_text("{}\n")
    given = ["run.arm=external", "eft.source=external", f"pairs.files=[{tmp_path}/x.jsonl]"]
    cfg = compose("tiny", [*given, "pairs.per_iteration=[]"])
    # as the code before the renaming made them from run.arm=given eft.source=given
    assert fingerprint(pairs.STAGE.identity(cfg, 1)) == "9d6922e87244dff0"
    assert fingerprint(seed.STAGE.identity(cfg, 1)) == "43876d5bf42b9377"
    assert fingerprint(eft.STAGE.identity(cfg, 1)) == "8ffe3b8248f9ce32"


# --- --describe ---------------------------------------------------------------------------------------------------


def test_every_setting_is_described_with_type_default_allowed_values_and_use():
    text = describe()
    for key, value, rule in SETTINGS:
        assert re.search(
            rf"^{re.escape(key)}: \S+.* = {re.escape(json.dumps(value, ensure_ascii=False))}$", text, re.M
        ), key
        assert rule.allowed() in text
    assert describe("dpo.beta") == (
        "dpo.beta: float = 0.1\n    a finite number, more than 0; identity\n"
        "    strength of the KL constraint to the reference policy"
    )
    assert describe("generate.quantization").splitlines()[:2] == [
        'generate.quantization: str = ""', '    one of "", fp8; identity',
    ]  # fmt: skip
    assert describe("cluster.hang.work").splitlines()[1] == "    0 or more; execution", "inherited from its section"


def test_a_section_is_described_with_its_own_keys_only():
    text = describe("judge")
    assert text.startswith("[judge] LLM-as-a-judge")
    assert {line.split(":")[0] for line in text.splitlines()[1:] if not line.startswith(" ")} == {
        f"judge.{f.name}" for f in fields(Config().judge)
    }


def test_every_section_says_what_it_is_for():
    sections = [s for s in settings() if is_dataclass(s.kind)]
    assert [s.key for s in sections if not s.kind.__doc__ or s.kind.__doc__.startswith(s.kind.__name__ + "(")] == []


def test_describing_what_is_not_there_lists_the_sections():
    with pytest.raises(ConfigError, match=r"'dpo\.bta'.*one of iterations, run, .*cluster"):
        describe("dpo.bta")


def test_the_command_describes_without_composing():
    code = (
        "import sys; from nemo_srlm.cli import main; main(['config', '--describe', 'dpo.loss'])\n"
        "assert not {'hydra', 'omegaconf', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith('dpo.loss: str = "sigmoid"\n    one of sigmoid, ipo')


@pytest.mark.parametrize(
    ("override", "value"),
    [
        (r'chat.user_prefix="Q:\n"', "Q:\n"),
        (r'chat.user_prefix="\tone\n\ntwo"', "\tone\n\ntwo"),
        (r'chat.user_prefix="a\\nb"', r"a\nb"),  # an escaped backslash
        (r"chat.user_prefix='Q:\n'", r"Q:\n"),  # single quotes: as it stands
        (r"""chat.user_prefix='say "a\nb"'""", r'say "a\nb"'),
        (r"chat.user_prefix=C\new", r"C\new"),
    ],
)
def test_a_line_break_in_double_quotes_is_one(override: str, value: str):
    assert compose("tiny", [override]).chat.user_prefix == value
    assert compose("tiny", [r'prompts.separators=["\nTask ", "x"]']).prompts.separators == ["\nTask ", "x"]
