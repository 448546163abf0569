"""Whatever a command raises is one message and an exit code; a traceback goes to a log."""

import errno
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nemo_srlm import cli
from nemo_srlm.core.exit_codes import guarded
from nemo_srlm.errors import DataError


def raising(error: BaseException):
    def command() -> int:
        raise error

    return command


def test_what_nobody_thought_of_is_a_message_and_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert guarded(raising(RuntimeError("a \x1b[31m bug \ud800")), "") == 1
    shown = capsys.readouterr()
    (log,) = tmp_path.glob("nemo-srlm-*.log")
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert "error: RuntimeError: a \\u001b[31m bug" in shown.err
    assert str(log) in shown.err
    content = log.read_text(encoding="utf-8")
    assert "Traceback" in content
    assert "RuntimeError: a" in content
    assert "in command" in content


def test_without_a_place_for_the_log_the_details_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert guarded(raising(RecursionError("deep")), "") == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (DataError("x.jsonl:3", "no JSON"), 2, "error: x.jsonl:3: no JSON"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/dev/null/tiny"), 2, "error: /dev/null/tiny: Not a directory"),
        (ModuleNotFoundError("No module", name="nothere"), 2, "nothere: not installed"),
        (KeyboardInterrupt(), 130, "stopped"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x"), 1, "FileNotFoundError"),
    ],
)  # fmt: skip
def test_exit_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, words: str,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert guarded(raising(error), "stopped") == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("root", ["/dev/null", "FILE", "FILE/below", "LOOP", "a" * 300, "/proc/nothing"])
def test_a_run_that_cannot_be_where_the_config_says_is_one_message(tmp_path: Path, root: str, capsys):
    (tmp_path / "FILE").write_text("")
    (tmp_path / "LOOP").symlink_to("LOOP")
    place = str(tmp_path / root)
    assert cli.main(["seed", f"run.root={place}"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {place}")
    assert shown.count("\n") == 1


def test_a_reader_that_leaves_is_no_traceback():
    command = [sys.executable, "-m", "nemo_srlm.cli", "config", "--describe"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 141


@pytest.mark.parametrize("words", [["cancel"], ["status"], ["status", "--json"], ["logs", "iter1/dpo"], ["show", "x"]])
def test_a_directory_that_is_no_run_stays_what_it_is(tmp_path: Path, words: list[str]):
    assert cli.main([*words, str(tmp_path / "absent")]) == 2
    assert list(tmp_path.iterdir()) == []
