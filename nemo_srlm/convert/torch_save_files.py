"""Finds the tensors in a `torch.save` archive without loading them and without executing code from its pickle.

The archive is a zip whose members are stored, not compressed; `data.pkl` says which member holds which tensor. Both
pytorch_model*.bin files and every chunk of a torch_dist checkpoint are such archives.
"""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nemo_srlm.convert.pickles import check_memo
from nemo_srlm.convert.tensor_files import StoredTensor, check_regular
from nemo_srlm.errors import CheckpointError

_STORAGES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


class _FilePart(io.RawIOBase):
    """Bytes [start, start + length) of an open file, as a file."""

    def __init__(self, file: io.BufferedReader, start: int, length: int) -> None:
        self._file, self._start, self._length, self._position = file, start, length, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(self._length - self._position, 0)
        self._file.seek(self._start + self._position)
        data = self._file.read(left if size < 0 else min(size, left))
        self._position += len(data)
        return data


class _UnsupportedError(Exception):
    """The archive holds something else than plain contiguous tensors."""


class _Unpickler(pickle.Unpickler):
    """Accepts containers and tensors; refuses every other global in the pickle, so that no code from it is executed."""

    def __init__(self, data: bytes, members: Callable[[str], tuple[int, int]], path: Path) -> None:
        super().__init__(io.BytesIO(data))
        self._members, self._path = members, path

    def persistent_load(self, pid: Any) -> tuple[torch.dtype, str]:
        _, dtype, key, *_ = pid
        return dtype, key

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, requires_grad, hooks: data
        raise _UnsupportedError(f"{module}.{name}")

    def _tensor(self, storage: tuple[torch.dtype, str], first: int, shape: Any, stride: Any, *_: Any) -> StoredTensor:
        dtype, key = storage
        offset, length = self._members(key)
        tensor = StoredTensor(self._path, offset + first * dtype.itemsize, dtype, tuple(shape))
        dense = torch.empty(tensor.shape, device="meta").stride()
        if any(size > 1 and ours != theirs for size, ours, theirs in zip(shape, dense, stride, strict=True)):
            raise _UnsupportedError(f"a tensor of shape {tuple(shape)} with strides {tuple(stride)}")
        if first * dtype.itemsize + tensor.num_bytes > length:
            raise _UnsupportedError(f"a tensor of {tensor.num_bytes} bytes in a member of {length}")
        return tensor


def scan(path: Path, start: int = 0, length: int | None = None) -> Any:
    """What `torch.load` would return, with a StoredTensor in place of every tensor.

    `start`, `length`: where the archive lies in the file, in bytes. Raises CheckpointError for a damaged archive and for
    anything but plain contiguous tensors.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END) - start if length is None else length
            part = _FilePart(file, start, size)
            archive = zipfile.ZipFile(part)
            infos = {info.filename: info for info in archive.infolist()}
            pickled = next(name for name in infos if name.endswith("/data.pkl"))
            prefix = pickled.removesuffix("data.pkl")

            def member(key: str) -> tuple[int, int]:
                return position(f"{prefix}data/{key}")

            def position(name: str) -> tuple[int, int]:
                info = infos[name]
                if info.compress_type != zipfile.ZIP_STORED:
                    raise _UnsupportedError("a compressed member")
                part.seek(info.header_offset)
                head = part.read(30)  # a local file header; its name and extra field come before the data
                return start + info.header_offset + 30 + sum(struct.unpack("<HH", head[26:30])), info.file_size

            begin, count = position(pickled)  # not archive.read: it wants checksums, which torch may leave out
            part.seek(begin - start)
            return _Unpickler(check_memo(part.read(count)), member, path).load()
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror})") from error
    except _UnsupportedError as error:
        raise CheckpointError(path, f"holds {error}", "plain contiguous tensors saved by torch.save") from error
    except CheckpointError:
        raise
    except Exception as error:  # a damaged archive or pickle raises nearly any type
        raise CheckpointError(
            path, f"no torch.save archive at byte {start} ({type(error).__name__}: {error})", "an archive of torch 1.6 or later",
            "the file is truncated or corrupt: fetch it again",
        ) from error  # fmt: skip
