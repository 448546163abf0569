"""The command line: positions of settings and options, and error messages for mistakes."""

import re
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from nemo_srlm import cli
from nemo_srlm.launch.arguments import count_or_zero


def test_settings_may_stand_before_and_after_options():
    args = cli.parse(["run", "a=1", "--config-name", "tiny", "b=2", "c.d=[/x]", "~model"])
    assert args.overrides == ["a=1", "b=2", "c.d=[/x]", "~model"]


@pytest.mark.parametrize(
    "words", [["run", "--bta=1"], ["run", "a=1", "--config-name", "tiny", "b"], ["status", "x", "y"]]
)
def test_what_is_no_setting_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        cli.parse(words)
    assert end.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["dpo.bta=1"], "dpo.bta"),
        (["dpo.beta=much"], "dpo.beta"),
        (["seed.files=[{tmp}/absent.trees.jsonl.gz]"], "absent.trees.jsonl.gz: no such file"),
        (["seed.files=[{tmp}/empty.jsonl]", "cluster.check_paths=false"], "empty.jsonl: no first turn for IFT"),
    ],
)
def test_a_mistake_is_one_message_without_a_traceback_and_leaves_nothing_as_if_done(
    tmp_path: Path, overrides: list[str], said: str
):
    (tmp_path / "empty.jsonl").touch()
    settings = [word.format(tmp=tmp_path) for word in overrides]
    command = [sys.executable, "-m", "nemo_srlm.cli", "run", "--config-name", "llama2_7b", f"run.root={tmp_path}/runs"]
    done = subprocess.run([*command, "import_hf.path=/absent", *settings], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path).rglob("manifest.json")) == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["prompts.files=[prompts.txt]"], "import_hf.path: empty"),
        (["import_hf.path=/models/x"], "prompts.files: empty, with prompts.source=file"),
        (["import_hf.path=/models/x", "prompts.files=[prompts.txt]", "eft.source=ranks"],
         "seed.files: empty, with eft.source=ranks"),
    ],
)  # fmt: skip
def test_an_input_that_is_not_named_is_asked_for_before_the_run_begins(
    tmp_path: Path, overrides: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("What is it?\n")
    assert cli.main(["run", "--config-name", "real", f"run.root={tmp_path}", *overrides]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert said in told.err
    assert "starting" not in told.out
    assert list(tmp_path.rglob("iter0")) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["logs", "nonsense", "RUN"], "'nonsense' is no stage of a run; expected iterT/STAGE"),
        (["logs", "iterx/judge"], "expected iterT/STAGE"),
        (["estimate", "--efficiency", "0"], "--efficiency: '0'; expected a number above 0"),
        (["estimate", "--efficiency", "1.5"], "at most 1"),
        (["estimate", "--memory", "nan"], "--memory: 'nan'; expected a number above 0"),
        (["estimate", "--memory", "inf"], "expected a number above 0"),
        (["estimate", "--peak", "-1"], "--peak: '-1'; expected a number above 0"),
        (["estimate", "--peak", "fast"], "--peak: 'fast'; expected a number above 0"),
    ],
)
def test_a_wrong_argument_is_named_with_what_was_expected(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--launcher", "cloud"], "--launcher: 'cloud'; expected one of slurm, local"),
        (["--launcher", "slurm", "--until", "sft"], "--until: sft"),
    ],
)
def test_a_launcher_that_is_unknown_or_cannot_end_at_a_stage_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["run", *words]) == 2
    assert said in capsys.readouterr().err


def test_help_lists_what_a_person_types_and_single_stages_are_behind_one_verb():
    verbs = re.findall(r"^    ([a-z_-]+)", cli.parser().format_help(), re.M)
    assert {"run", "status", "show", "stage", "doctor", "plan"} <= set(verbs)
    assert not set(verbs) & set(cli.STAGES)
    assert len(verbs) < 20


@pytest.mark.parametrize("words", [["stage", "judge"], ["judge"]])  # the second: as job scripts of users have it
def test_a_single_stage_is_named_with_its_iteration(words: list[str]):
    args = cli.parse([*words, "--iteration", "1", "dpo.beta=0.2"])
    assert (args.verb, args.name, args.iteration, args.overrides) == ("stage", "judge", 1, ["dpo.beta=0.2"])


def test_a_stage_that_the_run_does_not_have_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["stage", "judge", "--iteration", "7", f"run.root={tmp_path}"]) == 2
    assert "judge belongs to iteration(s) [1, 2]" in capsys.readouterr().err
    assert cli.main(["stage", "eval_kl", "--iteration", "1", f"run.root={tmp_path}"]) == 2
    assert "eval_kl: no stage of a run with these settings; expected one that" in capsys.readouterr().err


def test_a_stage_whose_input_is_not_done_is_refused_before_a_worker_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["export", "--config-name", "tiny", f"run.root={tmp_path}", "run.name=r"]) == 2
    words = f"--config-name tiny run.root={tmp_path} run.name=r"
    said = capsys.readouterr().err
    assert f"error: iter0/export: its input iter0/sft is not done; run `nemo-srlm run {words}`, or" in said
    assert f"`nemo-srlm stage sft --iteration 0 {words}` first" in said
    assert not (tmp_path / "r" / "logs").exists()


def test_a_number_that_may_be_0_is_said_to_be_one():
    assert [count_or_zero(text) for text in ("0", "00", "12")] == [0, 0, 12]
    for wrong in ("-1", "1.5", "١"):
        with pytest.raises(ArgumentTypeError, match="expected a whole number, 0 or more"):
            count_or_zero(wrong)
