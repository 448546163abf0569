"""The metadata of a checkpoint, pickled by another release of Python: some of 3.11 write an enum's member by getattr."""

import io
import pickle
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, TensorProperties

from nemo_srlm.convert import torch_dist_metadata
from nemo_srlm.convert.import_hf import import_hf
from nemo_srlm.errors import CheckpointError
from tests.unit import tiny_llama


class _Early(pickle.Pickler):
    """As Python 3.11.2 pickles: Enum.__reduce_ex__ returned getattr with the class and the member's name."""

    def reducer_override(self, value: Any) -> Any:
        return (getattr, (type(value), value.name)) if isinstance(value, Enum) else NotImplemented


def early(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Early(buffer).dump(value)
    return buffer.getvalue()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tiny_llama.make(tmp_path / "hf", tiny_llama.SHAPES["gqa"])
    import_hf(tmp_path / "hf", tmp_path / "mg")
    return tmp_path / "mg"


def test_metadata_of_an_early_python_3_11_is_read_as_that_of_any_other(checkpoint: Path):
    before = torch_dist_metadata.read(checkpoint)
    written = early(pickle.loads((checkpoint / ".metadata").read_bytes()))
    assert b"getattr" in written
    (checkpoint / ".metadata").write_bytes(written)
    assert torch_dist_metadata.read(checkpoint) == before


class _Attribute:
    """A pickle of this object reads an attribute of a class that a checkpoint may name."""

    def __init__(self, owner: Any, name: Any) -> None:
        self.read = owner, name

    def __reduce__(self) -> tuple[object, ...]:
        return getattr, self.read


@pytest.mark.parametrize("name", ["__init__", "__class__", "mro", "no_such_member"])
def test_any_other_attribute_is_refused(checkpoint: Path, name: str):
    for owner in (TensorProperties, _MEM_FORMAT_ENCODING):
        (checkpoint / ".metadata").write_bytes(pickle.dumps(_Attribute(owner, name)))
        with pytest.raises(CheckpointError, match="it reads an attribute, which is no part of a checkpoint"):
            torch_dist_metadata.read(checkpoint)
