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
from nemo_srlm.convert import hf_config, hf_weights, mapping, safetensors_files, tokenizer_files, torch_dist_files
from nemo_srlm.convert.mapping import HfTensor
from nemo_srlm.convert.processes import Report, nothing, prefetched, spread
from nemo_srlm.convert.tensor_files import DTYPES, NAMES, Reader, Ring, refuse_not_finite, written_whole
from nemo_srlm.errors import CheckpointError

# What is in memory at once; a few pieces at most, whatever the size of the model. Small enough to be in the processor's
# cache still when it is written; an import's pieces are larger because each becomes a chunk of the checkpoint.
PIECE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Exported:
    """What an export did."""

    dtype: str
    num_tensors: int
    num_parameters: int
    num_bytes: int
    files: tuple[str, ...]
    padding_rows: int  # rows of the padded vocabulary that were left out


def matched(checkpoint: torch_dist_files.Checkpoint, model: ModelSection) -> int:
    """Checks that the checkpoint holds every parameter of `model` and no other. Returns the rows of vocabulary padding."""
    entries = list(mapping.table(model))
    used = set()
    padding = 0
    for entry in entries:
        used.add(checkpoint.locate(entry)[0])
        found = checkpoint.shape(entry)
        if found != entry.shape:
            extra = found[0] - entry.shape[0]
            vocabulary = entry.layer is None and entry.key != "decoder.final_layernorm.weight"
            if not vocabulary or found[1:] != entry.shape[1:] or extra < 0:
                raise CheckpointError(checkpoint.directory, f"{entry.name} of shape {list(found)}", f"{list(entry.shape)}",
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
            checkpoint.directory, f"{len(unknown)} weight(s) that a Llama has not: {unknown[:5]}",
            "no weight but the model's", "nothing is left out silently; check model.* (tie_embeddings, biases)",
        )  # fmt: skip
    return padding


def read_hf(
    checkpoint: torch_dist_files.Checkpoint, reader: Reader, tensor: HfTensor, row: int, rows: int, ring: Ring
) -> torch.Tensor:
    """Rows [row, row + rows) of an HF tensor, taken from the Megatron tensor that holds them, in the stored dtype."""
    out = ring.take((rows, *tensor.shape[1:]), checkpoint.dtype(tensor.entry))
    for run in tensor.runs:
        first, last = max(row, run.hf_row), min(row + rows, run.hf_row + run.rows)
        if first < last:
            checkpoint.read_rows(reader, tensor.entry, run.row + first - run.hf_row, out[first - row : last - row])
    return out


def _shards(tensors: Sequence[HfTensor], itemsize: int, limit: int) -> list[list[HfTensor]]:
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
    """The share of one process: every `parts`-th file."""

    source: Path
    out: Path
    files: tuple[tuple[str, tuple[HfTensor, ...]], ...]
    dtype: torch.dtype
    piece_bytes: int

    def __call__(self, part: int, parts: int, advance: Callable[[int], None]) -> None:
        checkpoint = torch_dist_files.Checkpoint(self.source)
        ring = Ring(self.piece_bytes)
        parameters = sum(torch.Size(t.shape).numel() for _, tensors in self.files for t in tensors)
        with Reader(parameters * self.dtype.itemsize) as reader:

            def load(piece: tuple[HfTensor, int, int]) -> torch.Tensor:
                tensor, row, rows = piece
                weights = read_hf(checkpoint, reader, tensor, row, rows, ring).to(self.dtype)
                refuse_not_finite(weights, f"{tensor.entry.name} ({tensor.name})", self.source)
                return weights

            for name, tensors in self.files[part::parts]:
                if (self.out / name).exists():  # finished by an attempt that was killed later
                    advance(sum(torch.Size(t.shape).numel() for t in tensors))
                    continue
                writer = safetensors_files.Writer(self.out / name, [(t.name, t.shape) for t in tensors], self.dtype)
                try:
                    for _, weights in prefetched(_pieces(tensors, self.piece_bytes), load):
                        writer.append(weights)
                        advance(weights.numel())
                except BaseException:
                    writer.abandon()
                    raise
                writer.close()


def _pieces(tensors: Sequence[HfTensor], limit: int) -> list[tuple[HfTensor, int, int]]:
    out = []
    for tensor in tensors:
        step = max(1, limit // (4 * tensor.row_numel))
        out += [(tensor, row, min(step, tensor.shape[0] - row)) for row in range(0, tensor.shape[0], step)]
    return out


def export_hf(
    source: Path, out: Path, model: ModelSection, *, tokenizer: Path | None = None, chat: ChatSection | None = None,
    dtype: str = "", max_shard_bytes: int = 5 * 10**9, processes: int = 1, overwrite: bool = False,
    report: Report = nothing, piece_bytes: int = PIECE_BYTES,
) -> Exported:  # fmt: skip
    """Writes an HF directory that transformers and vLLM load, from a torch_dist checkpoint saved under any layout.

    `dtype` fp32 | bf16 | fp16 converts, "" keeps the stored type. `tokenizer` is a directory whose tokenizer files, chat
    template and generation settings are copied; `chat` replaces the template. An export that was killed goes on after
    its last finished file; after an error nothing stands under the name `out`. `report` counts parameters.
    """
    checkpoint = torch_dist_files.Checkpoint(source)
    padding = matched(checkpoint, model)
    tensors = sorted(mapping.hf_tensors(model), key=lambda tensor: _order(tensor.name))
    stored = checkpoint.dtype(tensors[0].entry)
    if not dtype and stored not in NAMES:
        raise CheckpointError(source, f"weights of type {stored}", f"one of {sorted(DTYPES)}")
    target = DTYPES[dtype] if dtype else stored
    shards = _shards(tensors, target.itemsize, max_shard_bytes)
    files = tuple(zip(hf_weights.shard_names(len(shards)), map(tuple, shards), strict=True))
    parameters = mapping.num_parameters(model)
    num_bytes = parameters * target.itemsize
    plan = _plan(source, files, target)
    with written_whole(out, num_bytes, overwrite, resume=_same_plan(out, plan)) as temporary:
        (temporary / PLAN).write_text(plan, encoding="utf-8")
        spread(_Export(source, temporary, files, target, piece_bytes), processes, parameters, report)
        if len(files) > 1:
            weight_map = {tensor.name: name for name, held in files for tensor in held}
            index = {"metadata": {"total_size": num_bytes}, "weight_map": weight_map}
            _write_json(temporary / hf_weights.INDEX, index)
        special = tokenizer_files.copy(tokenizer, temporary, model.vocab_size, chat) if tokenizer else {}
        _write_json(temporary / "config.json", hf_config.render(model, NAMES[target], special))
        _write_json(temporary / "generation_config.json", tokenizer_files.generation_config(temporary, special, chat))
        (temporary / PLAN).unlink()
    return Exported(NAMES[target], len(tensors), parameters, num_bytes, tuple(name for name, _ in files), padding)


PLAN = "plan.json"  # in the temporary directory only: which export its finished files belong to


def _plan(source: Path, files: Sequence[tuple[str, Sequence[HfTensor]]], dtype: torch.dtype) -> str:
    state = (source / ".metadata").stat()
    digest = hashlib.sha256((source / ".metadata").read_bytes()).hexdigest()
    names = [(name, [tensor.name for tensor in held]) for name, held in files]
    return json.dumps({"source": str(source.resolve()), "metadata": digest, "written": state.st_mtime_ns,
                       "dtype": str(dtype), "files": names})  # fmt: skip


def _same_plan(out: Path, plan: str) -> bool:
    path = out.with_name(f".{out.name}.partial") / PLAN
    return path.exists() and path.read_text(encoding="utf-8") == plan


def _order(name: str) -> tuple[int, int, str]:
    """Embedding, layers by number, final norm, head: the order in which loaders want them."""
    parts = name.split(".")
    if "layers" in parts:
        return 1, int(parts[parts.index("layers") + 1]), name
    return {"model.embed_tokens.weight": 0, "model.norm.weight": 2, "lm_head.weight": 3}[name], 0, name


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
