"""`nemo-srlm redo` where a run's directory is not as a run makes it."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_srlm.core.stage import Ref
from nemo_srlm.launch import redo
from tests.synthetic_run import build


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return build(tmp_path, "made", iterations=2)


def one_disk(other: Path) -> Callable[[Path, Path], None]:
    """os.replace that knows two disks: `other`, and the rest."""
    rename = os.rename

    def replace(source: Path, target: Path) -> None:
        if len({Path(os.path.realpath(path)).is_relative_to(other) for path in (source, target)}) == 2:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        rename(source, target)

    return replace


def test_stages_on_another_disk_are_removed_too(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    other = tmp_path / "other disk"
    other.mkdir()
    (made / "iter2").rename(other / "iter2")
    (made / "iter2").symlink_to(other / "iter2")
    monkeypatch.setattr("os.replace", one_disk(other))
    assert redo.redo(made, [Ref("pairs", 1)], yes=True)
    assert not (made / "iter1/pairs").exists()
    assert not (other / "iter2/pairs").exists()
    assert not list(tmp_path.rglob(redo.TRASH))


def test_a_removal_that_was_killed_is_finished_by_the_next(made: Path):
    for trash in (made, made / "iter1"):
        (trash / redo.TRASH / "pairs").mkdir(parents=True)
    assert redo.redo(made, [Ref("report", 2)], yes=True)
    assert not list(made.rglob(redo.TRASH))


def test_a_file_in_the_place_of_a_stage_is_removed(made: Path):
    report = made / "iter2/eval_h2h"
    report.rename(made / "kept")
    report.touch()
    assert redo.redo(made, [Ref("eval_h2h", 2)], only=True, yes=True)
    assert not report.exists()
