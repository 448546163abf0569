"""The `.metadata` of a torch_dist checkpoint, read without executing code from its pickle.

torch reads this file with plain `pickle.load`, so a checkpoint from a stranger could run anything. Here only the records
that torch and Megatron write are built; every other name in the pickle is an error.
"""

import io
import pickle
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorStorageMetadata

from nemo_srlm.convert.pickles import check_memo
from nemo_srlm.convert.tensor_files import check_files
from nemo_srlm.core.files import read_json
from nemo_srlm.errors import CheckpointError, DataError

COMPLETE = "a complete torch_dist checkpoint of Megatron-core"
REMEDY = "the checkpoint is truncated, corrupt or not to be trusted: fetch it again"

# The names in `.metadata` pickles of torch 2.13 and Megatron-core 0.16 to 0.19: records, enums, and dtypes of torch.
_ALLOWED = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "BytesStorageMetadata",
        "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.planner": {"SavePlan", "WriteItem", "WriteItemType", "TensorWriteData"},
    "torch.serialization": {"_get_layout"},  # a table from a layout's name to the layout
    "megatron.core.dist_checkpointing.strategies.torch": {"MCoreSavePlan"},
    "pathlib": {"PosixPath"},
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch":
            found = getattr(torch, name, None)
            if name == "Size" or isinstance(found, torch.dtype):
                return found
        if name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):
            return _member
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of a checkpoint")


def _member(kind: Any, name: Any) -> Enum:
    """In place of getattr: some releases of Python 3.11 (Debian 12's 3.11.2) pickle an enum's member as getattr(enum, name)."""
    if isinstance(kind, type) and issubclass(kind, Enum) and isinstance(name, str) and name in kind.__members__:
        return kind[name]
    raise pickle.UnpicklingError("it reads an attribute, which is no part of a checkpoint")


def read(directory: Path) -> Metadata:
    """Raises CheckpointError for anything that is not a torch_dist checkpoint, or whose files lie outside `directory`."""
    try:
        kind = read_json(directory / "metadata.json")
    except DataError as error:
        raise CheckpointError(directory, f"no metadata.json ({error.found})", COMPLETE) from error
    if not isinstance(kind, dict) or kind.get("sharded_backend") != "torch_dist":
        raise CheckpointError(directory, f"a checkpoint of kind {kind}", "sharded_backend torch_dist")
    path = directory / ".metadata"
    check_files(directory / "metadata.json", [path.name])
    try:
        found: Any = _Unpickler(io.BytesIO(check_memo(path.read_bytes()))).load()
    except OSError as error:
        raise CheckpointError(path, f"unreadable ({error.strerror})", COMPLETE) from error
    except Exception as error:  # a damaged pickle raises nearly any type
        raise CheckpointError(path, f"damaged metadata ({type(error).__name__}: {error})", COMPLETE, REMEDY) from error
    if not _well_formed(found):
        raise CheckpointError(path, "a pickle that is no metadata of a checkpoint", COMPLETE, REMEDY)
    metadata: Metadata = found
    check_files(path, {info.relative_path for info in metadata.storage_data.values()})
    return metadata


def _well_formed(found: Any) -> bool:
    """Whether the fields that are read have their types: unpickling fills a record without checking them."""
    try:
        return isinstance(found, Metadata) and all(
            isinstance(index, MetadataIndex) and isinstance(info, _StorageInfo) and isinstance(info.relative_path, str)
            and _sizes((info.offset, info.length)) and (index.offset is None or _sizes(index.offset))
            for index, info in found.storage_data.items()
        ) and all(
            isinstance(key, str) and (not isinstance(stored, TensorStorageMetadata) or _tensor(stored))
            for key, stored in found.state_dict_metadata.items()
        )  # fmt: skip
    except (AttributeError, TypeError):
        return False


def _tensor(stored: TensorStorageMetadata) -> bool:
    """Whether every chunk is a box within the tensor."""
    return (
        isinstance(stored.properties.dtype, torch.dtype)
        and _sizes(stored.size)
        and all(
            isinstance(chunk, ChunkStorageMetadata)
            and _sizes(chunk.offsets)
            and _sizes(chunk.sizes)
            and len(chunk.offsets) == len(chunk.sizes) == len(stored.size)
            and all(map(_fits, chunk.offsets, chunk.sizes, stored.size))
            for chunk in stored.chunks
        )
    )


def _fits(offset: int, size: int, whole: int) -> bool:
    return offset + size <= whole


def _sizes(values: Any) -> bool:
    return isinstance(values, tuple) and all(type(value) is int and value >= 0 for value in values)
