"""Megatron-core's torch_dist checkpoint format, read and written by slices of rows, without a model.

A torch_dist checkpoint is a PyTorch distributed checkpoint: `.metadata` (a pickle of `Metadata`: for every key its global
shape and chunks, for every chunk its file, offset and length), `__R_K.distcp` files (one `torch.save` archive per chunk),
and Megatron's `common.pt` and `metadata.json`. `dist_checkpointing.load` reads any part of a key from any chunks, so a
checkpoint that was written by slices of rows loads under every TP/PP layout, and each rank reads only the chunks that
overlap its own shard.
"""

import json
import math
import os
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from nemo_srlm.convert import torch_dist_metadata, torch_save_files
from nemo_srlm.convert.mapping import MegatronTensor
from nemo_srlm.convert.tensor_files import Reader, StoredTensor, start_writeback
from nemo_srlm.errors import CheckpointError

# Keys of a training checkpoint that are not weights of the model.
NOT_WEIGHTS = ("optimizer", "rng_state", "rerun_state", "opt_param_scheduler", "chained")


@dataclass(frozen=True)
class Chunk:
    """A chunk on disk: a box of the global tensor."""

    offsets: tuple[int, ...]  # without the layer axis
    sizes: tuple[int, ...]
    file: str
    position: int
    length: int


class Checkpoint:
    """The weights in a torch_dist directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        metadata = torch_dist_metadata.read(directory)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self._chunks: dict[tuple[str, int | None], list[Chunk]] = {}
        self._stored: dict[Chunk, StoredTensor] = {}  # of the chunks that were looked up
        for key, stored in metadata.state_dict_metadata.items():
            if not isinstance(stored, TensorStorageMetadata) or key.startswith(NOT_WEIGHTS):
                continue
            self.shapes[key], self.dtypes[key] = tuple(stored.size), stored.properties.dtype
        for index, info in metadata.storage_data.items():
            if index.fqn in self.shapes:
                offsets, sizes = _box(directory, metadata, index)
                self._add(index.fqn, offsets, sizes, info)
        self._check_whole()

    def _add(self, key: str, offsets: tuple[int, ...], sizes: tuple[int, ...], info: Any) -> None:
        layered = key.startswith("decoder.layers.") and not key.split(".")[2].isdigit()
        layer = offsets[0] if layered else None
        if layered:
            if sizes[:1] != (1,):
                raise CheckpointError(self.directory, f"{key}: a chunk of shape {list(sizes)}",
                                      "every layer as a chunk of its own", torch_dist_metadata.REMEDY)  # fmt: skip
            offsets, sizes = offsets[1:], sizes[1:]
        chunk = Chunk(offsets, sizes, info.relative_path, info.offset, info.length)
        self._chunks.setdefault((key, layer), []).append(chunk)

    def _check_whole(self) -> None:
        """Raises CheckpointError unless the chunks of every weight hold each of its values once."""
        for (key, layer), chunks in self._chunks.items():
            shape = self.shapes[key] if layer is None else self.shapes[key][1:]
            stored = sum(math.prod(chunk.sizes) for chunk in chunks)
            if stored != math.prod(shape) or any(_overlap(*pair) for pair in combinations(chunks, 2)):
                raise CheckpointError(
                    self.directory, f"{key}: {len(chunks)} chunk(s) with {stored} values, or some twice",
                    f"each of the {math.prod(shape)} values of {list(shape)} once", torch_dist_metadata.REMEDY,
                )  # fmt: skip

    def locate(self, tensor: MegatronTensor) -> tuple[str, int | None]:
        """(key, layer) under which the checkpoint holds the tensor: stacked layers, or a key per layer."""
        for key, layer in ((tensor.key, tensor.layer), (tensor.name, None)):
            if (key, layer) in self._chunks:
                return key, layer
        raise CheckpointError(
            self.directory, f"no weight {tensor.name}", f"every parameter of the model ({len(self.shapes)} keys are there)",
            "the model section of the config does not fit this checkpoint",
        )  # fmt: skip

    def shape(self, tensor: MegatronTensor) -> tuple[int, ...]:
        """Global shape without the layer axis; a vocabulary may be padded."""
        key, layer = self.locate(tensor)
        return self.shapes[key] if layer is None else self.shapes[key][1:]

    def dtype(self, tensor: MegatronTensor) -> torch.dtype:
        return self.dtypes[self.locate(tensor)[0]]

    def read_rows(self, reader: Reader, tensor: MegatronTensor, row: int, out: torch.Tensor) -> None:
        """Fills `out` (of the stored dtype) with rows of the global tensor from `row` on, from the chunks that hold them."""
        key, layer = self.locate(tensor)
        rows, filled = out.shape[0], 0
        for chunk in self._chunks[key, layer]:
            first, last = max(row, chunk.offsets[0]), min(row + rows, chunk.offsets[0] + chunk.sizes[0])
            if first >= last:
                continue
            stored = self._stored_chunk(chunk)
            if stored.dtype != out.dtype:
                raise CheckpointError(stored.path, f"{tensor.name} as {stored.dtype}", f"{out.dtype} by its metadata")
            target = out[first - row : last - row]
            if chunk.sizes[1:] == tuple(out.shape[1:]):
                reader.read_rows(stored, first - chunk.offsets[0], target)
            else:  # sharded by columns, as row-parallel layers are
                part = torch.empty((last - first, *chunk.sizes[1:]), dtype=out.dtype)
                reader.read_rows(stored, first - chunk.offsets[0], part)
                target[:, chunk.offsets[1] : chunk.offsets[1] + chunk.sizes[1]] = part
            filled += (last - first) * (torch.Size(chunk.sizes[1:]).numel())
        if filled != out.numel():
            raise CheckpointError(self.directory, f"{filled} of {out.numel()} values of {tensor.name}, rows {row} on",
                                  "every value exactly once")  # fmt: skip

    def _stored_chunk(self, chunk: Chunk) -> StoredTensor:
        if chunk not in self._stored:
            found = torch_save_files.scan(self.directory / chunk.file, chunk.position, chunk.length)
            if (
                not isinstance(found, StoredTensor)
                or torch.Size(found.shape).numel() != torch.Size(chunk.sizes).numel()
            ):
                raise CheckpointError(self.directory / chunk.file, f"a chunk at byte {chunk.position} that is no tensor "
                                      f"of shape {chunk.sizes}")  # fmt: skip
            self._stored[chunk] = StoredTensor(found.path, found.offset, found.dtype, chunk.sizes)
        return self._stored[chunk]


def _box(directory: Path, metadata: Metadata, index: MetadataIndex) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(offsets, sizes) of a stored chunk, in the whole tensor."""
    stored = metadata.state_dict_metadata[index.fqn]
    assert isinstance(stored, TensorStorageMetadata)
    offsets = tuple(index.offset or ())
    if type(index.index) is int and 0 <= index.index < len(stored.chunks):  # a hint: a checkpoint has many chunks
        hinted = stored.chunks[index.index]
        if tuple(hinted.offsets) == offsets:
            return offsets, tuple(hinted.sizes)
    for chunk in stored.chunks:
        if tuple(chunk.offsets) == offsets:
            return offsets, tuple(chunk.sizes)
    raise CheckpointError(
        directory, f"{index.fqn}: a chunk at {list(offsets)}, which is none of its {len(stored.chunks)} chunks",
        torch_dist_metadata.COMPLETE, torch_dist_metadata.REMEDY,
    )  # fmt: skip


def _overlap(one: Chunk, other: Chunk) -> bool:
    boxes = zip(one.offsets, one.sizes, other.offsets, other.sizes, strict=True)
    return all(a < b + size_of_b and b < a + size_of_a for a, size_of_a, b, size_of_b in boxes)


@dataclass(frozen=True)
class WrittenChunk:
    """A chunk that a Writer wrote."""

    key: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    position: int
    length: int


class Writer:
    """Writes one `__<rank>_0.distcp` file."""

    def __init__(self, directory: Path, rank: int) -> None:
        self.name = f"__{rank}_0.distcp"
        self._file = (directory / self.name).open("wb")
        self.written: list[WrittenChunk] = []

    def append(self, tensor: MegatronTensor, row: int, rows: torch.Tensor) -> None:
        """Writes rows of the tensor, from `row` on, as a chunk for every tensor-parallel shard of its columns."""
        width = tensor.shard_shape[-1]
        for i, part in enumerate(torch.split(rows, width, dim=1) if rows.dim() > 1 else [rows]):
            self._write_chunk(tensor, (row, i * width)[: rows.dim()], part.contiguous())

    def _write_chunk(self, tensor: MegatronTensor, offsets: tuple[int, ...], data: torch.Tensor) -> None:
        sizes = tuple(data.shape)
        if tensor.layer is not None:
            offsets, sizes = (tensor.layer, *offsets), (1, *sizes)
        position = self._file.tell()
        _save(data.view(sizes), self._file)
        length = self._file.tell() - position
        start_writeback(self._file.fileno(), position, length)
        self.written.append(WrittenChunk(tensor.key, offsets, sizes, self.name, position, length))

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def _save(tensor: torch.Tensor, file: IO[bytes]) -> None:
    """torch.save of these values alone, without checksums: no loader checks them, and they cost as much as writing."""
    checksums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        # torch.save writes a whole storage, and this tensor is part of a larger buffer: give its memory a storage of its own
        own = torch.from_numpy(tensor.view(-1).view(torch.uint8).numpy())
        torch.save(own.view(tensor.dtype).view(tensor.shape), file)
    except RuntimeError as error:  # torch raises its own error over the OSError of the disk
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    finally:
        torch.serialization.set_crc32_options(checksums)


def write_metadata(
    directory: Path, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, written: Iterable[WrittenChunk]
) -> None:
    """Writes `.metadata`, an empty `common.pt` and, last, `metadata.json`, without which the directory is no checkpoint."""
    chunks: dict[str, list[ChunkStorageMetadata]] = {key: [] for key in shapes}
    storage: dict[MetadataIndex, _StorageInfo] = {}
    for chunk in written:
        index = MetadataIndex(chunk.key, torch.Size(chunk.offsets), len(chunks[chunk.key]))
        chunks[chunk.key].append(ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes)))
        storage[index] = _StorageInfo(chunk.file, chunk.position, chunk.length)
    for key, shape in shapes.items():
        numel = sum(torch.Size(chunk.sizes).numel() for chunk in chunks[key])
        assert numel == torch.Size(shape).numel(), (key, numel, shape)
    metadata = Metadata(
        {k: TensorStorageMetadata(TensorProperties(dtype=dtype), torch.Size(shapes[k]), chunks[k]) for k in shapes},
        storage_data=storage,
    )
    with (directory / ".metadata").open("wb") as f:
        pickle.dump(metadata, f)
        f.flush()
        os.fsync(f.fileno())
    torch.save({}, directory / "common.pt")
    kind = {"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch",
            "common_backend_version": 1}  # fmt: skip
    with (directory / "metadata.json").open("w", encoding="utf-8") as f:
        json.dump(kind, f)
        f.flush()
        os.fsync(f.fileno())
