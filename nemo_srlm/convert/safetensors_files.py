"""safetensors files: a header reader that checks every offset, and a writer that streams.

The format is 8 bytes of header length, a JSON header and the data. The safetensors library needs whole tensors in memory
to write, and maps files into memory to read (see tensor_files.py), so it is not used here.
"""

import json
import math
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import torch

from nemo_srlm.convert.tensor_files import StoredTensor, check_regular, write_all
from nemo_srlm.errors import CheckpointError

TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
TYPE_NAMES = {dtype: name for name, dtype in TYPES.items()}
MAX_HEADER = 100 * 2**20  # the format's own limit
DAMAGED = "the file is truncated or corrupt: fetch it again"


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of a file. Raises CheckpointError unless the tensors fill the data section without gap or overlap."""
    check_regular(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as f:
            start = f.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise CheckpointError(path, f"{size} bytes that begin with a header length of {length}",
                                      "a safetensors file", DAMAGED)  # fmt: skip
            text = f.read(length)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror})", "a safetensors file") from error
    try:
        header = json.loads(text, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"a header that is not JSON ({error})", "a safetensors file", DAMAGED) from error
    if not isinstance(header, dict):
        raise CheckpointError(path, "a header that is no JSON object", "a safetensors file", DAMAGED)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(path, "a malformed __metadata__ in its header", "texts by name", DAMAGED)
    tensors: dict[str, StoredTensor] = {}
    end = 0
    for name, info in sorted(header.items(), key=lambda item: _span(item[1], item[0], path)[0]):
        begin, stop = _span(info, name, path)
        dtype, shape = _type(info, name, path), tuple(info["shape"])
        if begin != end or stop - begin != math.prod(shape) * dtype.itemsize:
            raise CheckpointError(path, f"{name} at bytes {begin}..{stop} with shape {shape} of {info['dtype']}",
                                  f"{math.prod(shape) * dtype.itemsize} bytes from {end} on", DAMAGED)  # fmt: skip
        tensors[name] = StoredTensor(path, 8 + length + begin, dtype, shape)
        end = stop
    if size != 8 + length + end:
        raise CheckpointError(path, f"{size} bytes", f"{8 + length + end} by its header", DAMAGED)
    return tensors


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} twice")
    return dict(pairs)


def _span(info: Any, name: str, path: Path) -> tuple[int, int]:
    try:
        begin, stop = info["data_offsets"]
        if isinstance(begin, int) and isinstance(stop, int) and 0 <= begin <= stop and _is_shape(info["shape"]):
            return begin, stop
    except (KeyError, TypeError, ValueError):
        pass
    raise CheckpointError(path, f"a malformed header entry for {name}", "dtype, shape and data_offsets", DAMAGED)


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**48 for size in value)


def _type(info: dict[str, Any], name: str, path: Path) -> torch.dtype:
    stated = info.get("dtype")
    dtype = TYPES.get(stated) if isinstance(stated, str) else None
    if dtype is None:
        raise CheckpointError(path, f"{name} of type {info.get('dtype')}", f"one of {sorted(TYPES)}",
                              "convert from an unquantised model")  # fmt: skip
    return dtype


class Writer:
    """Writes one file. The tensors and their order are known beforehand; their data comes in any number of slices.

    A context: the file has the suffix .part until it ends without an error, so a file under the final name is complete.
    """

    def __init__(self, path: Path, tensors: Iterable[tuple[str, tuple[int, ...]]], dtype: torch.dtype) -> None:
        self.path, self._partial = path, path.with_name(path.name + ".part")
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in tensors:
            stop = end + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": TYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [end, stop]}
            end = stop
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._fd = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(self._fd, struct.pack("<Q", len(text)) + text)
        self._offset = 8 + len(text)
        self._expected = self._offset + end

    def append(self, values: torch.Tensor) -> None:
        self._offset = write_all(self._fd, values, self._offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None:
                assert self._offset == self._expected, (self.path, self._offset, self._expected)
                os.fsync(self._fd)
        finally:
            os.close(self._fd)
        if error is None:
            os.replace(self._partial, self.path)
