"""Refused settings: values of the wrong type, texts that match no pattern, absurd sizes, settings that contradict each other."""

import re
from pathlib import Path

import pytest

from nemo_srlm.cli import main
from nemo_srlm.config.checks import check_fields
from nemo_srlm.config.compose import compose, load_resolved_config
from nemo_srlm.config.fields import setting
from nemo_srlm.errors import ConfigError
from nemo_srlm.train.layout import check_layout
from tests.unit.test_config import with_value

FINITE = "a finite number, more than 0"
SECTION = "a section, whose settings are given one by one: "


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_float_is_finite_and_the_message_says_so(value: str):
    with pytest.raises(ConfigError) as refused:
        compose("tiny", [f"dpo.beta={value}"])
    assert str(refused.value) == (
        f"dpo.beta: {value}; expected {FINITE}; `nemo-srlm config --describe dpo.beta` explains it"
    )


@pytest.mark.parametrize(
    ("override", "key", "found", "expected"),
    [
        ("run.seed=1.5", "run.seed", "1.5", "a whole number, 0 to 2147483647"),
        ("run.seed=[1]", "run.seed", "[1]", "a whole number, 0 to 2147483647"),
        ("run={seed:x}", "run.seed", "'x'", "a whole number, 0 to 2147483647"),
        ("dpo.beta=abc", "dpo.beta", "'abc'", FINITE),
        ("dpo.beta.x=1", "dpo.beta", "{'x': 1}", FINITE),
        ("run.arm=null", "run.arm", "null", "one of self, random, sft_only, external, oracle"),
        ("run.reuse=null", "run.reuse", "null", "a text"),
        ("dpo.beta=true", "dpo.beta", "true", FINITE),
        ("dpo.max_steps=false", "dpo.max_steps", "false", "a whole number, 0 or more"),
        ("eval.kl=1", "eval.kl", "1", "true or false"),
        ("run.root=[a]", "run.root", "['a']", "a text, not empty"),
        ("prompts.ascii_start=maybe", "prompts.ascii_start", "'maybe'", "true or false"),
        ("prompts.starts=a", "prompts.starts", "'a'", "a list of texts that are not blank"),
        ("prompts.starts={a:b}", "prompts.starts", "{'a': 'b'}", "a list of texts that are not blank"),
        ("prompts.per_iteration=[[1]]", "prompts.per_iteration", "[[1]]", "a list of whole numbers, each 1 or more"),
        (
            "prompts.per_iteration=[{a:1}]",
            "prompts.per_iteration",
            "[{'a': 1}]",
            "a list of whole numbers, each 1 or more",
        ),
        ("prompts.per_iteration=[true]", "prompts.per_iteration", "[True]", "a list of whole numbers, each 1 or more"),
        ("seed.files=[null]", "seed.files", "[None]", "a list of texts"),
        ("model.rope_scaling=[1]", "model.rope_scaling", "[1]", "a mapping {name: value}"),
        ("dpo=1", "dpo", "1", SECTION + "dpo.NAME=VALUE"),
        ("dpo=null", "dpo", "null", SECTION + "dpo.NAME=VALUE"),
        ("run=[]", "run", "[]", SECTION + "run.NAME=VALUE"),
        ("cluster.train=true", "cluster.train", "true", SECTION + "cluster.train.NAME=VALUE"),
    ],
)
def test_a_wrong_type_names_key_value_and_what_is_allowed(override: str, key: str, found: str, expected: str):
    with pytest.raises(ConfigError) as refused:
        compose("tiny", [override])
    remedy = f"`nemo-srlm config --describe {key}` explains it"
    assert str(refused.value) == f"tiny.yaml and overrides: {key}: {found}; expected {expected}; {remedy}"


@pytest.mark.parametrize(
    ("override", "key", "found"),
    [
        ("run.name=1.10", "run.name", "read as a number, 1.1"),
        ("eval.prompts=1.50", "eval.prompts", "read as a number, 1.5"),
        ("run.reuse=false", "run.reuse", "read as a switch, false"),
    ],
)
def test_a_number_or_switch_in_the_place_of_a_text_asks_for_quotes(override: str, key: str, found: str):
    with pytest.raises(ConfigError) as refused:
        compose("tiny", [override])
    assert f"{key}: {found}; expected " in str(refused.value)
    assert f"""in quotes, on the command line '{key}="..."';""" in str(refused.value)
    assert compose("tiny", ['run.name="1.10"']).run.name == "1.10"  # as the shell hands it over


def test_an_unknown_key_lists_its_neighbours():
    with pytest.raises(ConfigError, match=r"run\.sead: no such setting; expected one of name, .*seed.*--describe run`"):
        compose("tiny", ["run.sead=1"])
    with pytest.raises(ConfigError, match=r"foo: no such setting; expected one of iterations, run, .*--describe`"):
        compose("tiny", ["foo.bar=1"])


def test_other_mistakes_of_composition_are_config_errors(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"cluster: .1.; expected the name of a file in"):
        compose("tiny", ["cluster=1"])
    with pytest.raises(ConfigError, match=r"dpo\.beta: Interpolation key 'x' not found"):
        compose("tiny", ["dpo.beta=${x}"])
    (tmp_path / "config.yaml").write_text("[1, 2]\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: a list; expected sections"):
        load_resolved_config(tmp_path)


TIMES = [f"cluster.{kind}.time" for kind in ("train", "generate", "convert", "cpu")]
MEMORY = [f"cluster.{kind}.memory" for kind in ("train", "generate", "convert", "cpu")]


@pytest.mark.parametrize(
    ("keys", "allowed", "refused"),
    [
        (TIMES, ["90", "90:00", "24:00:00", "2-0", "2-12:30", "2-1:2:3"], ["", "tomorrow", "1h", "1:2:3:4", "-1", "2-", "1.5"]),
        (MEMORY, ["", "0", "64000", "64G", "512m", "2T"], ["lots", "64GB", "-1", "1.5G", "64 G"]),
        (["run.name"], ["tiny", "a.b-c_1", "_x"], ["", ".", "..", ".x", "-x", "a/b", "a b", "../x", "a\n", "größe"]),
        (["api.url"], ["", "http://h:8000/v1", "https://h/v1"], ["h/v1", "ftp://h", "http://", "http://a b", "http://a|b"]),
        (["api.key_variable"], ["KEY", "_k1"], ["", "1K", "sk-abc", "A B", "A=b"]),
        (
            ["eval.harness.tasks"],
            [["a"], ["arc_easy:0", "mmlu:5"]],
            [[], [""], ["a:"], [":5"], ["a:b"], ["a:1:2"], ["a b"], ["a,b"]],
        ),
        (["prompts.starts", "prompts.keywords"], [[], ["a", "go to"]], [[""], ["a", ""], [" "]]),
        (["prompts.separators"], [[], ["\n"], ["\nTask "]], [[""], ["a", ""]]),
        (["judge.template", "prompts.template", "eval.h2h_template", "select.template"], ["x.txt"], [""]),
        (["run.seed", "world.seed"], [0, 2**31 - 1], [-1, 2**31]),
        (["iterations"], [0, 1000], [1001]),
        (["candidates.shards", "judge.shards"], [10_000], [10_001]),
        (["import_hf.processes", "export.processes", "parallel.processes", "generate.replicas"], [1024], [1025]),
        (["api.workers"], [10_000], [10_001]),
        (["eval.bootstrap"], [0, 100_000], [100_001]),
    ],
)  # fmt: skip
def test_nonsense_is_refused(keys: list[str], allowed: list[object], refused: list[object]):
    for key in keys:
        for value in allowed:
            check_fields(with_value(key, value))
        for value in refused:
            with pytest.raises(ConfigError) as error:
                check_fields(with_value(key, value))
            assert error.value.where == key
            assert error.value.found == repr(value)
            assert error.value.expected


def test_a_pattern_needs_words():
    with pytest.raises(AssertionError):
        setting("", pattern="a*")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["prompts.min_words=9", "prompts.max_words=8"],
            r"prompts\.min_words: 9; expected at most prompts\.max_words, 8",
        ),
        (
            ["dpo.loss=ipo", "dpo.label_smoothing=0.1"],
            r"dpo\.label_smoothing: 0\.1 with dpo\.loss=ipo; expected 0: this loss has no label smoothing",
        ),
        (
            ["world.ift_right=0.7", "world.ift_one_error=0.4"],
            r"world\.ift_one_error: 0\.4 with world\.ift_right=0\.7: more than all replies; expected at most 0\.3;",
        ),
        (
            ["pairs.min_margin=5"],
            r"pairs\.min_margin: 5\.0 with pairs\.score=judge, .* score is 5; expected less than 5",
        ),
        (["candidates.temperature=0"], r"candidates\.temperature: 0 with candidates\.num=\d+, .*; expected above 0"),
        (["pairs.rho=0.1"], r"pairs\.rho: 0\.1 with pairs\.rule=max_min, .*; expected pairs\.rule=length_controlled"),
        (["dpo.simpo_gamma=1"], r"dpo\.simpo_gamma: 1\.0 with dpo\.loss=sigmoid, .*; expected dpo\.loss=simpo"),
        (["model.num_attention_heads=7"], r"model\.num_attention_heads: 7; expected a divisor of 8192 \(hidden_size\)"),
        (["model.num_query_groups=7"], r"model\.num_query_groups: 7; expected a divisor of 64 heads"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: list[str], words: str):
    with pytest.raises(ConfigError, match=words):
        compose("llama2_70b", overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["pairs.min_margin=4.9"],
        ["pairs.min_margin=5", "pairs.score=checker", "checker.command=[x]"],
        ["candidates.temperature=0", "run.arm=external", "pairs.files=[x.jsonl]"],
        ["pairs.rho=0.1", "pairs.rule=length_controlled"],
        ["dpo.simpo_gamma=1", "dpo.loss=simpo"],
    ],
)
def test_what_something_reads_or_can_give_a_pair_is_accepted(overrides: list[str]):
    compose("llama2_70b", overrides)


def test_heads_of_their_own_size_need_not_divide_the_hidden_size():
    sizes = ["model.num_attention_heads=7", "model.num_query_groups=7", "model.head_dim=128"]
    assert compose("llama2_70b", sizes).model.query_size == 7 * 128


def test_plan_refuses_impossible_heads(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "--config-name", "llama2_70b", "model.num_attention_heads=7"]) == 2
    assert "model.num_attention_heads: 7; expected a divisor of 8192" in capsys.readouterr().err


OVERLAP = ["parallel.tp_comm_overlap=true", "sft.max_tokens_per_row=4096", "dpo.max_tokens_per_row=8192"]
FP8_WEIGHTS = ["precision.fp8=hybrid", "precision.fp8_recipe=tensorwise", "precision.fp8_param_gather=true"]
GRAPHS = [
    "precision.cuda_graphs=mlp", "parallel.pipeline=1", "parallel.virtual_pipeline=1", "sft.dropout=0", "dpo.dropout=0",
    "sft.max_tokens_per_row=4096", "dpo.max_tokens_per_row=8192",
]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["precision.dtype=fp32", "precision.grad_reduce_in_fp32=false"], "precision.grad_reduce_in_fp32"),
        (["precision.dtype=fp32", "precision.cross_entropy=native"], "precision.cross_entropy"),
        ([*OVERLAP, "parallel.sequence=false"], "parallel.tp_comm_overlap"),
        ([*OVERLAP, "parallel.processes=4"], "parallel.tp_comm_overlap"),
        ([*OVERLAP, "dpo.max_tokens_per_row=8191"], "dpo.max_tokens_per_row"),
        ([*OVERLAP, "sft.max_tokens_per_row=0"], "sft.max_tokens_per_row"),
        (["precision.fp8_param_gather=true"], "precision.fp8_param_gather: true without FP8"),
        ([*FP8_WEIGHTS, "parallel.distributed_optimizer=false"], "precision.fp8_param_gather"),
        ([*FP8_WEIGHTS, "precision.fp8_recipe=mxfp8"], "precision.fp8_param_gather"),
        (
            [*OVERLAP, "precision.fp8=hybrid", "precision.fp8_recipe=blockwise"],
            "parallel.tp_comm_overlap: true with precision",
        ),
        ([*GRAPHS, "parallel.pipeline=2"], "precision.cuda_graphs: mlp with pipeline 2"),
        ([*GRAPHS, "dpo.dropout=0.1"], "precision.cuda_graphs: mlp with dropout {'dpo': 0.1}"),
        ([*GRAPHS, "precision.recompute=full"], "precision.cuda_graphs"),
        ([*GRAPHS, "precision.dtype=fp32"], "precision.cuda_graphs"),
        ([*GRAPHS, "sft.max_tokens_per_row=2048"], "sft.max_tokens_per_row"),
    ],
)
def test_switches_that_exclude_each_other_are_refused_when_a_run_starts(overrides: list[str], key: str):
    for allowed in (OVERLAP, FP8_WEIGHTS, GRAPHS):
        compose("llama2_70b", allowed)
    with pytest.raises(ConfigError) as refused:
        compose("llama2_70b", overrides)
    assert key in str(refused.value)


def test_a_reference_without_fp8_scales_is_refused():
    """Transformer Engine learns delayed scales in training alone; an imported model's are all 1."""
    settings = [
        "run.start=instruct",
        "precision.fp8=hybrid",
        "precision.fp8_recipe=delayed",
        "precision.fp8_bf16_layers=0",
    ]
    with pytest.raises(
        ConfigError, match=r"precision\.fp8_recipe: delayed with run\.start=instruct and eft\.source=none"
    ):
        compose("llama2_70b", [*settings, "eft.source=none"])
    compose("llama2_70b", [*settings, "eft.source=ranks"])  # M1 is trained, with scales


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["dpo.packing=false"], "true with dpo.packing=false; expected dpo.packing=true"),
        (
            ["cluster.gpus_per_node=8"],
            "true with cluster.gpus_per_node=8, for training on GPUs; expected training on a CPU",
        ),
        (["precision.cross_entropy=te"], "true with precision.cross_entropy=te, for training on GPUs"),
    ],
)
def test_shared_prefixes_are_refused_where_a_run_cannot_have_them_before_it_starts(overrides: list[str], words: str):
    assert compose("tiny", ["dpo.shared_prefix=true"]).dpo.shared_prefix
    with pytest.raises(ConfigError) as refused:
        compose("tiny", ["dpo.shared_prefix=true", *overrides])
    assert "dpo.shared_prefix: " + words in str(refused.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run.root=~/models/x", r"""'run.root="~/models/x"'; nobody expands ~ there: write \$HOME"""),
        ("run.root=/data/Müller/model", """'run.root="/data/Müller/model"'"""),
        ("run.root=a(1)", r"""'run.root="a\(1\)"'"""),
        ("run.root=a,b", """'run.root="a,b"'"""),
        ("prompts.keywords=[画像]", r"""'prompts.keywords=\["画像"\]'"""),
    ],
)
def test_a_value_that_hydra_does_not_read_names_its_setting_and_how_to_quote_it(override: str, said: str):
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"(?s)^{key}: .*quote each text .*{said}"):
        compose("tiny", [override])
    quoted = re.search(rf"'({key}=[^']*)'", said.replace("\\", ""))
    assert quoted
    compose("tiny", [quoted[1]])


@pytest.mark.parametrize("override", ["parallel.tensor=3", "parallel.pipeline=100"])
def test_a_layout_that_does_not_divide_the_model_is_not_called_a_fault_of_fp8(override: str):
    cfg = compose("llama2_70b", ["precision.fp8=hybrid", "precision.fp8_recipe=tensorwise", override])
    with pytest.raises(ConfigError, match=r"parallel\.processes: .*expected a multiple of that product"):
        check_layout(cfg.model, cfg.parallel)
