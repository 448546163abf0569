"""Which system errors are reported as user errors, and that a full disk is recognised behind other libraries' errors."""

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from nemo_srlm.errors import of_system

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch):
    def set_free(num_bytes: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**40, 2**40 - num_bytes, num_bytes))

    return set_free


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_what_the_system_refused_is_one_message_with_the_file(tmp_path: Path, free, number: int):
    free(2**30)
    mistake = of_system(OSError(number, "refused", "/data/x"), tmp_path)
    assert mistake is not None
    assert str(mistake).startswith("/data/x: refused (1,024.0 MiB free)")
    unnamed = of_system(OSError(number, "refused"), tmp_path)
    assert str(unnamed).startswith(f"{tmp_path}: refused")


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
