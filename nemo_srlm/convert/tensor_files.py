"""Tensors in files: where a tensor lies, reading any of its rows with `pread`, writing its bytes with `pwrite`.

One reader serves safetensors files, `torch.save` archives (.bin) and the chunks of a torch_dist checkpoint. It copies the
asked rows from the page cache into the caller's buffer. safetensors' own `get_slice` maps the whole file instead, and
touched pages of a mapping count as resident memory, which would grow with the file.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from nemo_srlm.errors import CheckpointError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def check_files(index: Path, names: Collection[str]) -> None:
    """Raises CheckpointError unless every name of an index is that of a file beside it: not `../x`, not a pipe.

    A link is followed: caches of model hubs are directories of links.
    """
    bad = sorted(name for name in names if name in ("", ".", "..") or Path(name).name != name or "\0" in name)
    if bad:
        raise CheckpointError(index, f"names {bad[0]!r}", "file names without a folder",
                              "the index is damaged or not to be trusted: fetch it again")  # fmt: skip
    absent = sorted(name for name in names if not (index.parent / name).exists())
    if absent:
        raise CheckpointError(index, f"names {len(absent)} of {len(names)} files that are not there: {absent[:5]}",
                              "every file beside its index", "fetch the missing files")  # fmt: skip
    for name in sorted(names):
        check_regular(index.parent / name)


def check_regular(path: Path) -> None:
    """Raises CheckpointError for what exists and is no file: opening a pipe waits for a writer."""
    if path.exists() and not path.is_file():
        raise CheckpointError(path, "a folder, pipe or device", "a file", "fetch it again")


@dataclass(frozen=True)
class StoredTensor:
    """A contiguous tensor in a file."""

    path: Path
    offset: int  # bytes from the start of the file
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return torch.Size(self.shape[1:]).numel() * self.dtype.itemsize

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Reader:
    """Reads from files that it keeps open. Not for several threads at once.

    `num_bytes`: what the whole work reads, and writes again. Where twice that does not fit in memory, each read drops its
    pages from the page cache: otherwise Linux has to find room for every new page, which costs a fifth of the time.
    """

    MAX_OPEN = 64

    def __init__(self, num_bytes: int = 0) -> None:
        self._fds: dict[Path, int] = {}
        self._drops_pages = 2 * num_bytes > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def _descriptor(self, path: Path) -> int:
        if path not in self._fds:
            if len(self._fds) >= self.MAX_OPEN:
                self.close()
            try:
                self._fds[path] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise CheckpointError(path, f"cannot be opened ({error.strerror})") from error
        return self._fds[path]

    def read_rows(self, tensor: StoredTensor, row: int, out: torch.Tensor) -> None:
        """Fills `out` (contiguous, of the tensor's dtype) with rows from `row` on. CheckpointError on a short file."""
        assert out.dtype == tensor.dtype, (out.dtype, tensor)
        self.read(tensor.path, tensor.offset + row * tensor.row_bytes, out)

    def read(self, path: Path, offset: int, out: torch.Tensor) -> None:
        """Fills `out` (contiguous) with the bytes from `offset` on. CheckpointError on a short file."""
        if not out.numel():
            return
        view, fd, start = _bytes_of(out), self._descriptor(path), offset
        while view:
            try:
                count = os.preadv(fd, [view], offset)
            except OSError as error:
                raise CheckpointError(path, f"cannot be read at byte {offset} ({error.strerror})") from error
            if count == 0:
                raise CheckpointError(
                    path, f"ends at byte {offset}", f"{len(view)} bytes more", "the file is truncated"
                )
            view, offset = view[count:], offset + count
        if self._drops_pages:
            os.posix_fadvise(fd, start, offset - start, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BufferPool:
    """Three buffers in rotation, for slices of which one is read while another is written.

    Fresh memory for every slice would cost more than the copying, because the system provides it page by page.
    """

    def __init__(self, num_bytes: int) -> None:
        self._buffers = [torch.empty(num_bytes, dtype=torch.uint8) for _ in range(3)]

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised tensor, valid until the third `take` after this one."""
        size = torch.Size(shape).numel() * dtype.itemsize
        self._buffers.append(self._buffers.pop(0))
        if size > len(self._buffers[-1]):  # a single row larger than a slice
            return torch.empty(shape, dtype=dtype)
        return self._buffers[-1][:size].view(dtype).view(shape)


def check_finite(tensor: torch.Tensor, name: str, where: object) -> None:
    """Raises CheckpointError when a weight is NaN or infinite. One vectorised pass: about 10 GB/s."""
    if tensor.numel() == 0:
        return
    low, high = torch.aminmax(tensor)  # NaN propagates through both
    if not (torch.isfinite(low) and torch.isfinite(high)):
        bad = int((~torch.isfinite(tensor)).sum())
        raise CheckpointError(where, f"{name} holds {bad} NaN or infinite value(s)", "finite weights")


def write_all(fd: int, tensor: torch.Tensor, offset: int) -> int:
    """Writes a contiguous tensor's bytes at `offset`; returns the offset behind them."""
    view, start = _bytes_of(tensor), offset
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count
    start_writeback(fd, start, offset - start)
    return offset


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Makes Linux start writing these bytes to the disk now, while the next are read, instead of at the fsync."""
    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return tensor.view(-1).view(torch.uint8).numpy().data
