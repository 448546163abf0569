"""An attempt at a training that has ended already: it may have been killed while it removed its checkpoints."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_srlm.train.checkpoint_dir import FINAL, mark_complete
from nemo_srlm.train.megatron import checkpoint
from nemo_srlm.train.megatron.trainer import fit


def test_what_a_killed_end_has_left_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Optimizer state of a terabyte would become an output of the stage."""
    monkeypatch.setattr(checkpoint.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(checkpoint.dist, "barrier", lambda: None)
    monkeypatch.setattr(checkpoint.dist, "broadcast_object_list", lambda found, src: None)
    for name in ("step_00000002", "step_00000004", ".tmp-step_00000006-7", FINAL):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"12345678")
    mark_complete(tmp_path / FINAL)
    fit(SimpleNamespace(job=SimpleNamespace(checkpoints=tmp_path, train=None)), None)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == [FINAL]
