"""Tensors that lie in files: where, of which type and shape, and reading any rows of them with plain `pread`.

One reader serves safetensors files, `torch.save` archives (.bin) and the chunks of a torch_dist checkpoint. It copies the
asked rows straight from the page cache into the caller's buffer. safetensors' own `get_slice` maps the whole file
instead, and touched pages of a mapping count as resident memory, which would grow with the file.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from nemo_srlm.errors import CheckpointError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
PIECE_BYTES = 128 * 2**20  # what is in memory at once; a few pieces at most, whatever the size of the model


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
    """Open files, and reads from them. Not for several threads at once.

    `num_bytes`: what the whole work reads, and writes again. Where that does not fit in memory, what was read leaves the
    page cache at once: Linux would have to find room for every page that comes, which costs a fifth of the time.
    """

    MAX_OPEN = 64

    def __init__(self, num_bytes: int = 0) -> None:
        self._fds: dict[Path, int] = {}
        self._forgets = 2 * num_bytes > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def descriptor(self, path: Path) -> int:
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
        if not out.numel():
            return
        view = memoryview(out.view(-1).view(torch.uint8).numpy())
        fd, start = self.descriptor(path), offset
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
        if self._forgets:
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


class Ring:
    """Three buffers in turn, for pieces of which one is being read while one is being written.

    Fresh memory for every piece would cost more than the copying: the system hands it out page by page.
    """

    def __init__(self, num_bytes: int) -> None:
        self._buffers = [torch.empty(num_bytes, dtype=torch.uint8) for _ in range(3)]

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised tensor, valid until the third `take` after this one."""
        size = torch.Size(shape).numel() * dtype.itemsize
        self._buffers.append(self._buffers.pop(0))
        if size > len(self._buffers[-1]):  # a single row larger than a piece
            return torch.empty(shape, dtype=dtype)
        return self._buffers[-1][:size].view(dtype).view(shape)


def refuse_not_finite(tensor: torch.Tensor, name: str, where: object) -> None:
    """Raises CheckpointError when a weight is NaN or infinite. One vectorised pass: about 10 GB/s."""
    if tensor.numel() == 0:
        return
    low, high = torch.aminmax(tensor)  # NaN propagates through both
    if not (torch.isfinite(low) and torch.isfinite(high)):
        bad = int((~torch.isfinite(tensor)).sum())
        raise CheckpointError(where, f"{name} holds {bad} NaN or infinite value(s)", "finite weights")


def write_all(fd: int, tensor: torch.Tensor, offset: int) -> int:
    """Writes a contiguous tensor's bytes at `offset`; returns the offset behind them."""
    view, start = memoryview(tensor.view(-1).view(torch.uint8).numpy()), offset
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count
    start_writeback(fd, start, offset - start)
    return offset


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Lets Linux begin to write these bytes to the disk now, while the next ones are read, instead of at the fsync."""
    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)


@contextmanager
def written_whole(final: Path, num_bytes: int, overwrite: bool, resume: bool = False) -> Iterator[Path]:
    """A temporary directory beside `final` that becomes `final` by one rename when the block ends well.

    Refuses when `final` exists (unless `overwrite`) or when the disk has no room for `num_bytes`. After an error the
    temporary directory is removed and nothing stands under the final name; after a kill it stays and the next attempt
    starts from an empty one, or with `resume` from what is there.
    """
    temporary = final.with_name(f".{final.name}.partial")
    if final.exists() and not overwrite:
        raise CheckpointError(final, "exists already", remedy="remove it or choose another directory")
    try:
        if temporary.exists() and not resume:
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True, exist_ok=True)
        here = sum(path.stat().st_size for path in temporary.iterdir())
        free = shutil.disk_usage(temporary).free
        if free < num_bytes - here:
            raise CheckpointError(
                final, f"{free / 2**30:.1f} GiB free on the disk", f"{(num_bytes - here) / 2**30:.1f} GiB",
                "free some space or choose another directory",
            )  # fmt: skip
        yield temporary
        sync_directory(temporary)
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
        sync_directory(final.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
            raise CheckpointError(
                final, f"cannot be written ({error.strerror})", f"{num_bytes / 2**30:.2f} GiB of room",
                "free some space or choose another directory; nothing was left under this name",
            ) from error  # fmt: skip
        raise
    except Exception:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
