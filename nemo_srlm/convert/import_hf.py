"""HF -> Megatron: streams an HF Llama directory into a torch_dist checkpoint, one bounded piece at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert import hf_config, hf_weights, mapping, torch_dist_files
from nemo_srlm.convert.mapping import Entry
from nemo_srlm.convert.processes import Report, nothing, prefetched, spread
from nemo_srlm.convert.tensor_files import (
    DTYPES,
    NAMES,
    PIECE_BYTES,
    Reader,
    Ring,
    StoredTensor,
    refuse_not_finite,
    written_whole,
)
from nemo_srlm.errors import CheckpointError
from nemo_srlm.train.checkpoint_dir import mark_complete


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    model: ModelSection
    dtype: str  # as stored in the checkpoint
    num_tensors: int  # HF tensors consumed
    num_parameters: int
    num_bytes: int
    ignored: tuple[str, ...]  # names of HF buffers that follow from the config


@dataclass(frozen=True)
class _Piece:
    entry: Entry
    row: int
    rows: int

    @property
    def numel(self) -> int:
        return self.rows * self.entry.row_numel


def _pieces(model: ModelSection, itemsize: int, limit: int) -> Iterator[_Piece]:
    """Runs of rows of at most `limit` bytes, none of which reaches over the end of a tensor-parallel shard."""
    for entry in mapping.table(model):
        step = max(1, limit // (entry.row_numel * itemsize))
        for start in range(0, entry.shape[0], entry.shard[0]):
            for row in range(start, start + entry.shard[0], step):
                yield _Piece(entry, row, min(step, start + entry.shard[0] - row))


def gather(
    reader: Reader, tensors: dict[str, StoredTensor], entry: Entry, row: int, rows: int, ring: Ring
) -> torch.Tensor:
    """Rows of a Megatron tensor, [rows, ...], put together from the HF tensors, in their dtype."""
    out = ring.take((rows, *entry.shape[1:]), tensors[entry.runs[0].hf].dtype)
    for run in entry.runs:
        first, last = max(row, run.row), min(row + rows, run.row + run.rows)
        if first < last:
            reader.read_rows(tensors[run.hf], run.hf_row + first - run.row, out[first - row : last - row])
    return out


@dataclass(frozen=True)
class _Import:
    """The share of one process: every `parts`-th piece. Each byte is read once, by one process."""

    model: ModelSection
    tensors: dict[str, StoredTensor]
    out: Path
    dtype: torch.dtype
    source: Path
    piece_bytes: int

    def __call__(self, part: int, parts: int, advance: Callable[[int], None]) -> list[torch_dist_files.Written]:
        mine = [p for i, p in enumerate(_pieces(self.model, 4, self.piece_bytes)) if i % parts == part]
        ring = Ring(self.piece_bytes)
        with Reader(mapping.num_parameters(self.model) * self.dtype.itemsize) as reader:

            def load(piece: _Piece) -> torch.Tensor:
                weights = gather(reader, self.tensors, piece.entry, piece.row, piece.rows, ring).to(self.dtype)
                names = ", ".join(dict.fromkeys(run.hf for run in piece.entry.runs))
                refuse_not_finite(weights, names, self.source)
                return weights

            writer = torch_dist_files.PartWriter(self.out, part)
            for piece, weights in prefetched(mine, load):
                writer.append(piece.entry, piece.row, weights)
                advance(piece.numel)
            writer.close()
        return writer.written


def import_hf(
    source: Path, checkpoint: Path, *, dtype: str = "", expected: ModelSection | None = None, allow_bin: bool = False,
    processes: int = 1, overwrite: bool = False, report: Report = nothing, piece_bytes: int = PIECE_BYTES,
) -> Imported:  # fmt: skip
    """Writes a weights-only torch_dist checkpoint, loadable under any TP/PP/VPP layout and vocabulary padding.

    `dtype` fp32 | bf16 | fp16 converts, "" keeps the weights as they are. `expected` is the architecture that the config
    asks for. Raises CheckpointError, leaving nothing under the name `checkpoint`, when anything does not fit.
    `report` counts parameters.
    """
    config = hf_config.read(source)
    if expected is not None and (found := hf_config.differences(config.model, expected)):
        raise CheckpointError(
            source, "an architecture other than the config's:\n    " + "\n    ".join(found),
            remedy="set these fields (left: the config, right: this directory) or choose the directory that was meant",
        )  # fmt: skip
    located = hf_weights.find(source, allow_bin)
    tensors, ignored = hf_weights.matched(located, config.model, source, None if dtype else config.dtype)
    stored = DTYPES[dtype] if dtype else next(iter(tensors.values())).dtype
    parameters = mapping.num_parameters(config.model)
    num_bytes = parameters * stored.itemsize
    with written_whole(checkpoint, num_bytes, overwrite) as temporary:
        work = _Import(config.model, tensors, temporary, stored, source, piece_bytes)
        parts = spread(work, processes, parameters, report)
        shapes = {}
        for entry in mapping.table(config.model):
            layers = () if entry.layer is None else (config.model.num_layers,)
            shapes[entry.key] = (*layers, *entry.shape)
        torch_dist_files.finish(temporary, shapes, stored, (w for part in parts for w in part), {})
        mark_complete(temporary)
    return Imported(config.model, NAMES[stored], len(tensors), parameters, num_bytes, tuple(ignored))
