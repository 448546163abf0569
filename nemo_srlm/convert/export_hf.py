"""Megatron -> HF: streams the weights of a torch_dist checkpoint of any layout into sharded safetensors."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nemo_srlm.config.generation import ChatSection
from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert import hf_config, hf_weights, safetensors_files, tokenizer_files, torch_dist_files
from nemo_srlm.convert.atomic_directory import atomic_directory, check_written, partial_path
from nemo_srlm.convert.families import table
from nemo_srlm.convert.mapping import EMBEDDING, HEAD, HfTensor
from nemo_srlm.convert.processes import Report, no_report, prefetch, run_parallel
from nemo_srlm.convert.tensor_files import DTYPE_NAMES, DTYPES, BufferPool, Reader, check_finite
from nemo_srlm.errors import CheckpointError

# A few slices are in memory at once. Small enough to be still in the processor's cache when it is written; the slices of an
# import are larger, because each becomes a chunk of the checkpoint.
SLICE_BYTES = 16 * 2**20
PLAN = "plan.json"  # in the temporary directory only: which export its finished files belong to


@dataclass(frozen=True)
class ExportResult:
    """What an export did."""

    dtype: str
    num_tensors: int
    num_parameters: int
    num_bytes: int
    files: tuple[str, ...]
    padding_rows: int  # rows of vocabulary padding that were left out


def check_checkpoint(checkpoint: torch_dist_files.Checkpoint, model: ModelSection) -> int:
    """The number of vocabulary padding rows. CheckpointError unless the checkpoint holds exactly the weights of `model`."""
    used = set()
    padding = 0
    for tensor in table.megatron_tensors(model):
        used.add(checkpoint.locate(tensor)[0])
        found = checkpoint.shape(tensor)
        if found != tensor.shape:
            extra = found[0] - tensor.shape[0]
            padded = tensor.key in (EMBEDDING, HEAD) and found[1:] == tensor.shape[1:] and extra > 0
            if not padded:
                raise CheckpointError(checkpoint.directory, f"{tensor.name} of shape {list(found)}", f"{list(tensor.shape)}",
                                      "the model section of the config does not fit this checkpoint")  # fmt: skip
            padding = extra
    stacked = {key: shape[0] for key, shape in checkpoint.shapes.items() if key in used and "decoder.layers." in key}
    deeper = [key for key, layers in stacked.items() if not key.split(".")[2].isdigit() and layers != model.num_layers]
    if deeper:
        raise CheckpointError(
            checkpoint.directory, f"{deeper[0]} of {stacked[deeper[0]]} layers", f"{model.num_layers}"
        )
    unknown = sorted(checkpoint.shapes.keys() - used)
    if unknown:
        raise CheckpointError(
            checkpoint.directory, f"{len(unknown)} weight(s) that a {model.family} has not: {unknown[:5]}",
            "no weight but the model's", "nothing is left out silently; check model.* (family, tie_embeddings)",
        )  # fmt: skip
    return padding


def _read_hf_rows(
    checkpoint: torch_dist_files.Checkpoint, reader: Reader, tensor: HfTensor, row: int, num_rows: int,
    buffers: BufferPool,
) -> torch.Tensor:  # fmt: skip
    """Rows [row, row + num_rows) of an HF tensor, from the Megatron tensor that holds them, in the stored dtype."""
    out = buffers.take((num_rows, *tensor.shape[1:]), checkpoint.dtype(tensor.megatron))
    for block in tensor.blocks:
        first, last = max(row, block.hf_row), min(row + num_rows, block.hf_row + block.num_rows)
        if first < last:
            target = out[first - row : last - row]
            checkpoint.read_rows(reader, tensor.megatron, block.row + first - block.hf_row, target)
    return out


def _shards(tensors: Sequence[HfTensor], itemsize: int, limit: int) -> list[list[HfTensor]]:
    """The tensors, in order, by file; a file holds at most `limit` bytes, or one tensor."""
    shards: list[list[HfTensor]] = [[]]
    size = 0
    for tensor in tensors:
        num_bytes = torch.Size(tensor.shape).numel() * itemsize
        if shards[-1] and size + num_bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += num_bytes
    return shards


@dataclass(frozen=True)
class _Export:
    """The work of one process: every `world_size`-th file."""

    source: Path
    out: Path
    files: tuple[tuple[str, tuple[HfTensor, ...]], ...]
    dtype: torch.dtype
    slice_bytes: int

    def __call__(self, rank: int, world_size: int, advance: Callable[[int], None]) -> None:
        checkpoint = torch_dist_files.Checkpoint(self.source)
        buffers = BufferPool(self.slice_bytes)
        parameters = sum(torch.Size(t.shape).numel() for _, tensors in self.files for t in tensors)
        with Reader(parameters * self.dtype.itemsize) as reader:

            def load(part: tuple[HfTensor, int, int]) -> torch.Tensor:
                tensor, row, num_rows = part
                weights = _read_hf_rows(checkpoint, reader, tensor, row, num_rows, buffers).to(self.dtype)
                check_finite(weights, f"{tensor.megatron.name} ({tensor.name})", self.source)
                return weights

            for name, tensors in self.files[rank::world_size]:
                if (self.out / name).exists():  # finished by an attempt that was killed afterwards
                    advance(sum(torch.Size(t.shape).numel() for t in tensors))
                    continue
                shapes = [(t.name, t.shape) for t in tensors]
                with safetensors_files.Writer(self.out / name, shapes, self.dtype) as writer:
                    for _, weights in prefetch(_slices(tensors, self.slice_bytes), load):
                        writer.append(weights)
                        advance(weights.numel())


def _slices(tensors: Sequence[HfTensor], limit: int) -> list[tuple[HfTensor, int, int]]:
    """(tensor, first row, number of rows), at most `limit` bytes in fp32 each."""
    out = []
    for tensor in tensors:
        step = max(1, limit // (4 * tensor.row_numel))
        out += [(tensor, row, min(step, tensor.shape[0] - row)) for row in range(0, tensor.shape[0], step)]
    return out


def export_hf(
    source: Path, out: Path, model: ModelSection, *, tokenizer: Path | None = None, chat: ChatSection | None = None,
    dtype: str = "", max_shard_bytes: int = 5 * 10**9, processes: int = 1, overwrite: bool = False,
    report: Report = no_report, slice_bytes: int = SLICE_BYTES,
) -> ExportResult:  # fmt: skip
    """Writes an HF directory for transformers and vLLM, from a torch_dist checkpoint saved under any layout.

    `dtype` fp32 | bf16 | fp16 converts, "" keeps the stored type. `tokenizer`: directory whose tokenizer files, chat template
    and generation settings are copied; `chat` replaces the template. `max_shard_bytes`: of a safetensors file. `report`
    counts parameters. An export that was killed continues after its last finished file. Raises CheckpointError when the
    checkpoint is damaged or is not that of `model`; then nothing exists under the name `out`.
    """
    checkpoint = torch_dist_files.Checkpoint(source)
    padding = check_checkpoint(checkpoint, model)
    tensors = sorted(table.hf_tensors(model), key=_order)
    stored = checkpoint.dtype(tensors[0].megatron)
    if not dtype and stored not in DTYPE_NAMES:
        raise CheckpointError(source, f"weights of type {stored}", f"one of {sorted(DTYPES)}")
    target = DTYPES[dtype] if dtype else stored
    shards = _shards(tensors, target.itemsize, max_shard_bytes)
    files = tuple(zip(hf_weights.shard_names(len(shards)), map(tuple, shards), strict=True))
    parameters = table.num_parameters(model)
    num_bytes = parameters * target.itemsize
    plan = _plan(source, files, target)
    inputs = [source, *([tokenizer] if tokenizer else [])]
    with atomic_directory(out, num_bytes, overwrite, inputs, resume=_same_plan(out, plan)) as temporary:
        (temporary / PLAN).write_text(plan, encoding="utf-8")
        run_parallel(_Export(source, temporary, files, target, slice_bytes), processes, parameters, report)
        check_written(temporary, [name for name, _ in files], num_bytes)
        if len(files) > 1:
            weight_map = {tensor.name: name for name, held in files for tensor in held}
            index = {"metadata": {"total_size": num_bytes}, "weight_map": weight_map}
            _write_json(temporary / hf_weights.INDEX, index)
        special = tokenizer_files.copy(tokenizer, temporary, model.vocab_size, chat) if tokenizer else {}
        _write_json(temporary / "config.json", hf_config.render(model, DTYPE_NAMES[target], special))
        _write_json(temporary / "generation_config.json", tokenizer_files.generation_config(temporary, special, chat))
        (temporary / PLAN).unlink()
    return ExportResult(
        DTYPE_NAMES[target], len(tensors), parameters, num_bytes, tuple(name for name, _ in files), padding
    )


def _plan(source: Path, files: Sequence[tuple[str, Sequence[HfTensor]]], dtype: torch.dtype) -> str:
    """What identifies an export: finished files of a killed one are kept only when this text is the same."""
    state = (source / ".metadata").stat()
    digest = hashlib.sha256((source / ".metadata").read_bytes()).hexdigest()
    names = [(name, [tensor.name for tensor in held]) for name, held in files]
    return json.dumps({"source": str(source.resolve()), "metadata": digest, "written": state.st_mtime_ns,
                       "dtype": str(dtype), "files": names})  # fmt: skip


def _same_plan(out: Path, plan: str) -> bool:
    path = partial_path(out) / PLAN
    return path.exists() and path.read_text(encoding="utf-8") == plan


def _order(tensor: HfTensor) -> tuple[int, int, str]:
    """Embedding, layers by number, final norm, head: the order in which loaders read them."""
    if tensor.megatron.layer is not None:
        return 1, tensor.megatron.layer, tensor.name
    return (0 if tensor.megatron.key == EMBEDDING else 3 if tensor.megatron.key == HEAD else 2), 0, tensor.name


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
