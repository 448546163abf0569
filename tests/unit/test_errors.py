"""Which system errors are reported as user errors, and that a full disk is recognised behind other libraries' errors."""

import errno
import os
import resource
import shutil
import signal
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nemo_srlm import cli
from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.config.compose import save_resolved_config
from nemo_srlm.config.schema import Config
from nemo_srlm.core import files
from nemo_srlm.core.records import Prompt
from nemo_srlm.errors import of_system

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch):
    def set_free(num_bytes: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 2**40 - num_bytes, num_bytes))

    return set_free


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_what_the_system_refused_is_one_message_with_the_file(tmp_path: Path, free, number: int):
    free(2**30)
    mistake = of_system(OSError(number, "refused", "/data/x"), tmp_path)
    assert mistake is not None
    assert str(mistake).startswith("/data/x: refused (1,024.0 MiB free)")
    assert "free some space" in str(mistake)
    unnamed = of_system(OSError(number, "refused"), tmp_path)
    assert str(unnamed).startswith(f"{tmp_path}: refused")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_what_is_not_permitted_is_no_question_of_space(tmp_path: Path, free, number: int):
    free(4096)
    mistake = of_system(OSError(number, "refused", "/data/x"), tmp_path)
    assert mistake is not None
    assert str(mistake).startswith("/data/x: refused; expected ")
    assert "space" not in str(mistake)


@pytest.mark.parametrize(
    ("path", "without", "expected"),
    [
        ("file", {("file", os.R_OK)}, "permission to read it"),
        ("file", {("file", os.R_OK), ("file", os.W_OK)}, "permission to read and write it"),
        ("new", set(), "permission to write into {tmp_path}"),
        ("folder/file", {("folder", os.X_OK)}, "permission to enter {tmp_path}/folder"),
    ],
)
def test_the_permission_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, without: set[tuple[str, int]], expected: str
):
    """os.access is replaced: tests may run as root, who has every permission."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    refused = {(tmp_path / name, mode) for name, mode in without}
    monkeypatch.setattr(os, "access", lambda found, mode: (Path(found), mode) not in refused)
    mistake = of_system(PermissionError(errno.EACCES, "Permission denied", str(tmp_path / path)), tmp_path)
    assert mistake is not None
    assert mistake.expected == expected.format(tmp_path=tmp_path)


def _too_long(directory: Path) -> Path:
    return directory / ("a" * 300)


def _loop(directory: Path) -> Path:
    (directory / "loop").symlink_to("loop")
    return directory / "loop"


def _below_a_file(directory: Path) -> Path:
    (directory / "file").write_text("")
    return directory / "file" / "below"


@pytest.mark.parametrize("make", [_too_long, _loop, _below_a_file, lambda directory: directory])
def test_what_the_system_says_about_a_path_is_a_message_about_that_path(tmp_path: Path, make):
    path = make(tmp_path)
    with pytest.raises(OSError) as raised:
        path.open("w")
    mistake = of_system(raised.value, Path("/elsewhere"))
    assert mistake is not None
    assert mistake.where == str(path)
    assert mistake.expected
    assert mistake.remedy


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EIO, errno.EEXIST])
def test_limits_and_lost_file_systems_are_messages_too(tmp_path: Path, number: int):
    assert of_system(OSError(number, "words", b"/data/\xff"), tmp_path).where == os.fsdecode(b"/data/\xff")
    assert of_system(OSError(number, "words"), tmp_path).where == str(tmp_path)
    assert of_system(OSError(number, "words", 7), tmp_path).where == str(tmp_path)  # a file descriptor


def test_other_errors_stay_what_they_are(tmp_path: Path, free):
    free(2**30)
    assert of_system(FileNotFoundError(errno.ENOENT, "absent", "x"), tmp_path) is None
    assert of_system(RuntimeError("a bug"), tmp_path) is None
    assert of_system(None, tmp_path) is None


@pytest.mark.parametrize("error", [RuntimeError("PytorchStreamWriter failed writing file"), None])
def test_a_full_disk_is_found_behind_any_error_even_below_directories_that_could_not_be_made(
    tmp_path: Path, free, error
):
    free(4096)
    mistake = of_system(error, tmp_path / "not" / "made")
    assert mistake is not None
    assert "the disk is full" in str(mistake)


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files may not exceed 100 bytes: a real error of write(), which names no file."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("write", [
    lambda path: write_atomic(path, "x" * 200), lambda path: files.write_json(path, ["x" * 200]),
    lambda path: files.write_records(path, [Prompt("p", "x" * 200)]),
    lambda path: save_resolved_config(Config(), path.parent),
])  # fmt: skip
def test_what_the_system_says_of_a_write_is_about_the_file(tmp_path: Path, write: Callable[[Path], object]):
    """Not about the directory in which the command was typed, which may be on a disk with room."""
    with pytest.raises(OSError) as raised:
        write(tmp_path / "config.yaml")
    assert str(of_system(raised.value, Path("/elsewhere"))).startswith(f"{tmp_path}/config.yaml: File too large")


@pytest.mark.parametrize(("words", "said"), [
    (["show", "ab"], "the directory of a run"), (["logs", "iter1/judge"], "the directory of a run"),
    (["redo", "iter1/judge"], "is neither"), (["verify"], "the directory of a run"), (["status"], "the directory of a run"),
])  # fmt: skip
def test_a_directory_that_is_no_run_is_said_to_be_none(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert cli.main([*words, str(tmp_path / "absent")]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_would_be_a_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["report", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "is a directory" in capsys.readouterr().err


def test_links_in_a_circle_are_a_message_about_the_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Path.resolve raises a RuntimeError for them."""
    (tmp_path / "loop").symlink_to("loop")
    assert cli.main(["doctor", "--json", str(tmp_path / "loop/x"), "--dir", str(tmp_path / "new")]) == 2
    assert f"{tmp_path}/loop/x: Too many levels of symbolic links" in capsys.readouterr().err
