"""The one YAML reader: what is broken, ambiguous, endless or of another kind is one error with line and column."""

from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.config.yaml_files import check_defaults, parse_yaml, read_yaml
from nemo_srlm.errors import ConfigError, UserError
from tools.bench.inputs.config_files import BOMB, FILES


def test_a_plain_file_is_read(tmp_path: Path):
    (tmp_path / "a.yaml").write_bytes("\ufeffrun:\n  name: x\n  seed: 3\ndpo: {beta: 1.0e-1}\n".encode())
    assert read_yaml(tmp_path / "a.yaml") == {"run": {"name": "x", "seed": 3}, "dpo": {"beta": 0.1}}
    assert parse_yaml("", "x") == parse_yaml("# nothing\n", "x") == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", "x:2:1: a twice; expected every key once"),
        ("a:\n\tb: 1\n", r"x:2:1: not YAML: .*indent with blanks"),
        ("a: &a [*a]\n", "x:1:4: an alias of itself"),
        ("a: !!python/name:os.system\n", "x:1:4: not YAML: could not determine a constructor"),
        ("language: no\n", 'x:1:11: no, which readers of YAML understand differently; .*write "no" in quotes'),
        ("time: 24:00:00\n", "x:1:7: 24:00:00, which readers"),
        ("seed: 0123\n", "x:1:7: 0123, which readers"),
        ("num: 1_000\n", "x:1:6: 1_000, which readers"),
        ("- a\n", "x: a list; expected sections"),
        (BOMB, "x: more than 20,000 values"),
        ("a: " + "[" * 5000, "x.*(not YAML|levels)"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str):
    with pytest.raises(ConfigError, match=words):
        parse_yaml(text, "x")


def test_words_that_all_readers_understand_alike_are_read():
    text = "a: 'no'\nb: \"24:00:00\"\nc: 04:00:00\nd: true\ne: 1.5\nf: '0123'\ng: 0\nh: -3\n"
    found = {"a": "no", "b": "24:00:00", "c": "04:00:00", "d": True, "e": 1.5, "f": "0123", "g": 0, "h": -3}
    assert parse_yaml(text, "x") == found


@pytest.mark.parametrize("name", ["Latin-1", "UTF-16", "NUL", "huge"])
def test_files_of_another_encoding_or_size_are_refused(tmp_path: Path, name: str):
    data = FILES[name]
    (tmp_path / "a.yaml").write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(UserError, match=r"a\.yaml"):
        read_yaml(tmp_path / "a.yaml")


def test_defaults_that_lead_back_are_named(tmp_path: Path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"defaults: [{other}]\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: its defaults lead back to it: a -> b -> a"):
        check_defaults([tmp_path], "a")


def test_a_missing_value_and_a_converted_one_are_refused(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("dpo:\n  beta: ???\n")
    with pytest.raises(ConfigError, match=r"dpo\.beta: \?\?\?, which stands for a missing value"):
        compose("a", [], tmp_path)
    for word in ("true", "1.50"):
        (tmp_path / "a.yaml").write_text(f"run:\n  reuse: {word}\n")
        with pytest.raises(ConfigError, match=r"run\.reuse: .*expected a text"):
            compose("a", [], tmp_path)
