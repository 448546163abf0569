"""What a run will need is looked at before it begins: templates, model directories, keys, layouts, another run to reuse."""

from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.errors import UserError
from nemo_srlm.launch.plan import remaining

ENDPOINT = (
    "api.stages=[select]",
    "api.url=http://127.0.0.1:1/v1",
    "api.model=m",
    "select.every=10",
    "world.split=test",
)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["judge.template=nowhere"], "nowhere: no such template file"),
        (["prompts.writer_path=nowhere"], "nowhere: no config.json"),
        (["run.reuse=nowhere"], r"run\.reuse: nowhere has no config\.yaml"),
        (["sft.global_batch=31"], r"sft\.global_batch: 31"),
        (["sft.max_length=321"], r"sft\.max_length: 321; expected at most the model's 320 positions"),
        (["generate.max_model_len=321"], r"generate\.max_model_len: 321; expected at most the model's 320 positions"),
        (["parallel.tensor=3"], r"parallel\.processes: "),
        (["run.arm=external", "pairs.files=[nowhere]"], "nowhere: no such file"),
        ([*ENDPOINT, "select.stages=[dpo]"], r"api\.key_variable: OPENAI_API_KEY is not in the environment"),
        (
            ["import_hf.path=nowhere", "world.enabled=false", "seed.files=[x]", "eft.source=ranks"],
            "nowhere|x: no such file",
        ),
    ],
)
def test_what_is_absent_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], words: str
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match=words):
        remaining(compose("tiny", settings), tmp_path)


def test_all_that_is_absent_is_named_in_one_error_each_once(tmp_path: Path):
    absent = ["judge.template=nowhere", "prompts.writer_path=nobody"]
    with pytest.raises(UserError) as raised:
        remaining(compose("tiny", [*absent, "run.reuse=never"]), tmp_path)
    text = str(raised.value)
    assert text.startswith(f"{tmp_path}: its stages would not start:\n")
    for words in ("nowhere: no such", "nobody: no config.json", "never has no config.yaml"):
        assert text.count(words) == 1


def test_a_run_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"run\.root: .*file is no directory"):
        remaining(compose("tiny", []), tmp_path / "file" / "run")


def test_a_good_config_has_all_of_its_stages_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abc")
    cfg = compose("tiny", [*ENDPOINT, "select.stages=[dpo]"])
    assert len(remaining(cfg, tmp_path)) > 30
