"""Commands in messages can be copied: they name the run or the config that they are about."""

from pathlib import Path

import pytest

from nemo_srlm import cli
from nemo_srlm.config.compose import compose, save_resolved_config
from nemo_srlm.core import stage
from nemo_srlm.core.commands import about, composed
from nemo_srlm.errors import DataError, UserError
from nemo_srlm.launch.lock import locked
from nemo_srlm.stages import load


def test_a_command_has_the_users_words_or_the_runs_own_config_or_none(tmp_path: Path):
    run_dir = tmp_path / "my runs"
    assert about("redo", run_dir, "iter1/pairs") == f"nemo-srlm redo iter1/pairs '{run_dir}'"
    assert composed("run", run_dir) == "nemo-srlm run"
    run_dir.mkdir()
    (run_dir / "config.yaml").touch()
    assert composed("run", run_dir, "--until", "sft") == (
        f"nemo-srlm run --until sft --config-dir '{run_dir}' --config-name config"
    )
    words = ["--config-name", "german", "chat.user_prefix='a b'"]
    assert (
        composed("run", run_dir, settings=words)
        == """nemo-srlm run --config-name german 'chat.user_prefix='"'"'a b'"'"''"""
    )


def test_the_command_of_a_started_run_makes_the_config_of_that_run(tmp_path: Path):
    cfg = compose("smollm2_135m", [f"run.root={tmp_path}", "run.name=r", "dpo.beta=0.3", "import_hf.path=x"])
    save_resolved_config(cfg, tmp_path / "r")
    with pytest.raises(DataError, match=r"its input iter0/[a-z_]+ is not done") as raised:
        stage.identity_of(load("export"), cfg, 0, tmp_path / "r")
    command = str(raised.value).split("`")[1].split()
    assert command[:2] == ["nemo-srlm", "run"]
    args = cli.parse(command[1:])
    assert compose(args.config_name, args.overrides, args.config_dir) == cfg


def test_a_run_that_is_locked_is_named_in_the_command(tmp_path: Path):
    with (
        locked(tmp_path),
        pytest.raises(UserError, match=rf"look with `nemo-srlm status {tmp_path}`"),
        locked(tmp_path),
    ):
        pass
