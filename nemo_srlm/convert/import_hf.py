"""HF -> Megatron: streams the weights of an HF directory into a torch_dist checkpoint, one slice of rows at a time."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert import hf_config, hf_weights, torch_dist_files
from nemo_srlm.convert.atomic_directory import atomic_directory, check_written
from nemo_srlm.convert.families import table
from nemo_srlm.convert.mapping import MegatronTensor
from nemo_srlm.convert.processes import Report, no_report, prefetch, run_parallel
from nemo_srlm.convert.tensor_files import (
    DTYPE_NAMES,
    DTYPES,
    BufferPool,
    Reader,
    StoredTensor,
    check_finite,
)
from nemo_srlm.errors import CheckpointError
from nemo_srlm.train.checkpoint_dir import mark_complete

SLICE_BYTES = 128 * 2**20  # a few slices are in memory at once, whatever the size of the model


@dataclass(frozen=True)
class ImportResult:
    """What an import did."""

    model: ModelSection
    dtype: str  # as stored in the checkpoint
    num_tensors: int  # HF tensors consumed
    num_parameters: int
    num_bytes: int
    ignored: tuple[str, ...]  # names of HF buffers that follow from the config


@dataclass(frozen=True)
class _Slice:
    """Rows of a Megatron tensor."""

    tensor: MegatronTensor
    row: int
    num_rows: int

    @property
    def numel(self) -> int:
        return self.num_rows * self.tensor.row_numel


def _slices(model: ModelSection, limit: int) -> Iterator[_Slice]:
    """Slices of at most `limit` bytes in fp32, none of which crosses the end of a tensor-parallel shard."""
    for tensor in table.megatron_tensors(model):
        step = max(1, limit // (4 * tensor.row_numel))
        shard_rows = tensor.shard_shape[0]
        for start in range(0, tensor.shape[0], shard_rows):
            for row in range(start, start + shard_rows, step):
                yield _Slice(tensor, row, min(step, start + shard_rows - row))


def read_megatron_rows(
    reader: Reader, hf: dict[str, StoredTensor], tensor: MegatronTensor, row: int, num_rows: int, buffers: BufferPool
) -> torch.Tensor:
    """Rows [row, row + num_rows) of a Megatron tensor, assembled from the HF tensors, in their dtype."""
    out = buffers.take((num_rows, *tensor.shape[1:]), hf[tensor.blocks[0].hf_name].dtype)
    for block in tensor.blocks:
        first, last = max(row, block.row), min(row + num_rows, block.row + block.num_rows)
        if first < last:
            reader.read_rows(hf[block.hf_name], block.hf_row + first - block.row, out[first - row : last - row])
    return out


@dataclass(frozen=True)
class _Import:
    """The work of one process: every `world_size`-th slice. Each byte is read once, by one process."""

    model: ModelSection
    tensors: dict[str, StoredTensor]
    out: Path
    dtype: torch.dtype
    source: Path
    slice_bytes: int

    def __call__(
        self, rank: int, world_size: int, advance: Callable[[int], None]
    ) -> list[torch_dist_files.WrittenChunk]:
        own = list(itertools.islice(_slices(self.model, self.slice_bytes), rank, None, world_size))
        buffers = BufferPool(self.slice_bytes)
        with Reader(table.num_parameters(self.model) * self.dtype.itemsize) as reader:

            def load(part: _Slice) -> torch.Tensor:
                rows = read_megatron_rows(reader, self.tensors, part.tensor, part.row, part.num_rows, buffers)
                weights = rows.to(self.dtype)
                names = ", ".join(dict.fromkeys(block.hf_name for block in part.tensor.blocks))
                check_finite(weights, names, self.source)
                return weights

            writer = torch_dist_files.Writer(self.out, rank)
            for part, weights in prefetch(own, load):
                writer.append(part.tensor, part.row, weights)
                advance(part.numel)
            writer.close()
        return writer.written


def import_hf(
    source: Path, checkpoint: Path, *, dtype: str = "", expected: ModelSection | None = None, allow_bin: bool = False,
    processes: int = 1, overwrite: bool = False, report: Report = no_report, slice_bytes: int = SLICE_BYTES,
) -> ImportResult:  # fmt: skip
    """Writes a weights-only torch_dist checkpoint, loadable under any TP/PP/VPP layout and vocabulary padding.

    `dtype` fp32 | bf16 | fp16 converts, "" keeps that of the weights. `expected`: the architecture that the project's config
    states. `report` counts parameters. Raises CheckpointError when anything is wrong with the files or does not fit; then
    nothing exists under the name `checkpoint`.
    """
    config = hf_config.read(source)
    if expected is not None and (found := hf_config.differences(config.model, expected)):
        raise CheckpointError(
            source, "an architecture other than the config's:\n    " + "\n    ".join(found),
            remedy="set these fields (left: the config, right: this directory) or choose another directory",
        )  # fmt: skip
    located = hf_weights.find(source, allow_bin)
    tensors, ignored = hf_weights.check_tensors(located, config.model, source, None if dtype else config.dtype)
    stored = DTYPES[dtype] if dtype else next(iter(tensors.values())).dtype
    parameters = table.num_parameters(config.model)
    num_bytes = parameters * stored.itemsize
    with atomic_directory(checkpoint, num_bytes, overwrite, [source]) as temporary:
        work = _Import(config.model, tensors, temporary, stored, source, slice_bytes)
        written = list(itertools.chain.from_iterable(run_parallel(work, processes, parameters, report)))
        shapes = {}
        for tensor in table.megatron_tensors(config.model):
            layers = () if tensor.layer is None else (config.model.num_layers,)
            shapes[tensor.key] = (*layers, *tensor.shape)
        torch_dist_files.write_metadata(temporary, shapes, stored, written)
        check_written(temporary, {chunk.file for chunk in written}, num_bytes)
        mark_complete(temporary)
    return ImportResult(config.model, DTYPE_NAMES[stored], len(tensors), parameters, num_bytes, tuple(ignored))
