"""Which checkpoint is used: final, else the newest complete one; an incomplete one is skipped with a warning,
and takes no place among those that are kept."""

from pathlib import Path

import pytest

from nemo_srlm.train.checkpoint_dir import FINAL, incomplete_reason, latest, mark_complete, superseded


def make(directory: Path, complete: bool = True) -> Path:
    directory.mkdir(parents=True)
    (directory / "weights").write_bytes(b"12345678")
    if complete:
        mark_complete(directory)
    return directory


def test_nothing_there_is_none(tmp_path: Path):
    assert latest(tmp_path / "checkpoint") is None


def test_the_newest_complete_one_wins(tmp_path: Path):
    make(tmp_path / "step_00000002")
    newest = make(tmp_path / "step_00000010")
    assert latest(tmp_path) == newest
    assert latest(tmp_path) != make(tmp_path / ".tmp-step_00000012")
    final = make(tmp_path / FINAL)
    assert latest(tmp_path) == final


@pytest.mark.parametrize("damage", ["unmarked", "truncated", "missing"])
def test_an_incomplete_one_is_skipped_with_a_warning(tmp_path: Path, damage: str):
    older = make(tmp_path / "step_00000002")
    newer = make(tmp_path / "step_00000004", complete=damage != "unmarked")
    if damage == "truncated":
        (newer / "weights").write_bytes(b"1234")
    if damage == "missing":
        (newer / "weights").unlink()
    assert incomplete_reason(newer)
    with pytest.warns(UserWarning, match="step_00000004"):
        assert latest(tmp_path) == older


def test_a_damaged_checkpoint_takes_the_place_of_no_complete_one(tmp_path: Path):
    """A training resumed from step 2 stops at step 3: without this it would be left with the damaged step 4 alone."""
    older, newest = make(tmp_path / "step_00000002"), make(tmp_path / "step_00000003")
    damaged = make(tmp_path / "step_00000004", complete=False)
    assert superseded(tmp_path, keep_last=1) == [older, damaged]
    assert superseded(tmp_path, keep_last=2) == [damaged]
    assert not incomplete_reason(newest)
