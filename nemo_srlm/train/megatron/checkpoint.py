"""Training checkpoints on disk: torch_dist files of Megatron's dist_checkpointing, written atomically.

What the directories are named and when one is complete: see checkpoint_dir.py. A checkpoint is written under a temporary
name, marked complete and renamed. It loads under any other parallel layout. Learning rate, data order and random state
are functions of the step, so the step number is all of their state.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.dist_checkpointing.serialization import load_sharded_metadata
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)
from megatron.core.dist_checkpointing.strategies.torch import TorchDistLoadShardedStrategy
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt import GPTModel
from megatron.core.utils import unwrap_model

from nemo_srlm.errors import CheckpointError
from nemo_srlm.train.checkpoint_dir import COMPLETE_FILE, FINAL, latest, mark_complete, step_name, superseded
from nemo_srlm.train.megatron import fp8_weights, optimizer_state, ranks
from nemo_srlm.train.megatron.save_strategy import InProcessSave


def model_state(chunks: list[Any]) -> dict[str, Any]:
    """Sharded weights of this rank's chunks, under their names in the whole model."""
    plain: list[GPTModel] = unwrap_model(chunks)
    metadata = {"dp_cp_group": _replicas()}
    if len(plain) == 1:
        return {"model": plain[0].sharded_state_dict(metadata=metadata)}
    return {f"model{i}": chunk.sharded_state_dict(metadata=metadata) for i, chunk in enumerate(plain)}


def _replicas() -> Any:
    """The process group of the ranks that hold the same weights."""
    return parallel_state.get_data_parallel_group(with_context_parallel=True)


def save_strategy() -> FullyParallelSaveStrategyWrapper:
    """Each weight is written by one of the ranks that hold it, each of which has near the same number of bytes."""
    return FullyParallelSaveStrategyWrapper(InProcessSave(), _replicas())


def _synchronised_state(chunks: list[Any]) -> dict[str, Any]:
    """`model_state` after the last update: with overlapped communication Megatron gathers the updated parameters only
    when the next forward pass uses them, and until then every rank has only its own part of them."""
    for chunk in chunks:
        if isinstance(chunk, DistributedDataParallel) and chunk.ddp_config.overlap_param_gather:
            chunk.start_param_sync(force_sync=True)
    return model_state(chunks)


def _of_optimizer(model: dict[str, Any]) -> dict[str, Any]:
    """The weights as Megatron's optimizers want them."""
    return model["model"] if len(model) == 1 else model


def save_model(
    directory: Path, chunks: list[Any], optimizer: Any, name: str = FINAL, notes: dict[str, Any] | None = None
) -> None:
    """Writes `directory`/`name`: weights only, and `notes` (file name -> JSON). Every rank calls it.

    `optimizer`: that of the training, None outside of one.
    """
    _write(directory, name, fp8_weights.to_save(_synchronised_state(chunks), optimizer), notes or {})


def training_state(step: int, chunks: list[Any], optimizer: Any) -> dict[str, Any]:
    """Sharded weights and optimizer state, and the number of steps done: all that training resumes from."""
    state = _synchronised_state(chunks)
    of_optimizer = optimizer_state.to_save(optimizer, _of_optimizer(state))
    return fp8_weights.to_save(state, optimizer) | {"optimizer": of_optimizer, "step": step}


def save_training(directory: Path, step: int, chunks: list[Any], optimizer: Any, keep_last: int) -> None:
    """Writes a checkpoint to resume from after `step` steps; keeps the newest `keep_last`. Every rank calls it."""
    _write(directory, step_name(step), training_state(step, chunks, optimizer), {})
    keep_newest(directory, keep_last)


def keep_newest(directory: Path, keep_last: int) -> None:
    if dist.get_rank() == 0:
        for old in superseded(directory, keep_last):
            shutil.rmtree(old)


def _write(directory: Path, name: str, state: dict[str, Any], notes: dict[str, Any]) -> None:
    temporary = make_temporary(directory, name)
    dist_checkpointing.save(state, str(temporary), sharded_strategy=save_strategy(), validate_access_integrity=False)
    if dist.get_rank() == 0:
        for file, note in notes.items():
            (temporary / file).write_text(json.dumps(note), encoding="utf-8")
    publish(directory, name, temporary)


def make_temporary(directory: Path, name: str) -> Path:
    """A new directory, the same on every rank; its name is unique, so that no process of an earlier attempt writes there."""
    token = ranks.of_main(lambda: f"{os.getpid()}-{time.time_ns()}")
    temporary = directory / f".tmp-{name}-{token}"
    if dist.get_rank() == 0:
        for stale in directory.glob(f".tmp-{name}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        temporary.mkdir(parents=True)
    dist.barrier()
    return temporary


def publish(directory: Path, name: str, temporary: Path) -> None:
    """Marks what was written complete and gives it its final name. Every rank calls it after writing."""
    dist.barrier()
    if dist.get_rank() == 0:
        mark_complete(temporary)
    rename(directory, temporary.name, name)


def rename(directory: Path, old: str, new: str) -> None:
    """Gives a complete checkpoint another name, replacing what has that name. Every rank calls it."""
    if dist.get_rank() == 0:
        shutil.rmtree(directory / new, ignore_errors=True)
        os.replace(directory / old, directory / new)
        _sync_directory(directory)
    dist.barrier()


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def load_model(directory: Path, chunks: list[Any]) -> None:
    """Fills the chunks from `directory`: a stage's checkpoint/, or one checkpoint in it, of training or of an HF import.

    Raises CheckpointError when no complete checkpoint is there or its shapes are another model's.
    """
    path = ranks.of_main(lambda: directory if (directory / COMPLETE_FILE).is_file() else latest(directory))
    if path is None:
        raise CheckpointError(directory, "no complete checkpoint", "final/ or step_*/", "run the stage that writes it")
    loaded = _load(path, _without_absent_scales(path, model_state(chunks)))
    _fill(chunks, loaded)
    for chunk, part in _by_chunk(chunks, loaded):
        fp8_weights.keep(chunk, part)


def load_training(directory: Path, chunks: list[Any], optimizer: Any) -> int:
    """Restores the newest training checkpoint of `directory`; returns its step (0: there is none)."""
    path = ranks.of_main(lambda: latest(directory))
    if path is None:
        return 0
    if path.name == FINAL:
        raise CheckpointError(path, "training is finished", "a checkpoint to resume from", "nothing is left to train")
    weights = model_state(chunks)
    wanted, complete = optimizer_state.to_load(optimizer, _of_optimizer(weights))
    loaded = _load(path, weights | {"optimizer": wanted})
    _fill(chunks, loaded)
    complete(loaded["optimizer"])
    return int(loaded["step"])


def _load(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Loads what is `wanted`. A tensor that several ranks want is read by one of them, which sends it to the others."""
    strategy = FullyParallelLoadStrategyWrapper(TorchDistLoadShardedStrategy(), _replicas())
    try:
        return dict(dist_checkpointing.load(wanted, str(path), sharded_strategy=strategy))
    except (dist_checkpointing.core.CheckpointingException, KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(path, f"does not fit this model ({str(error).splitlines()[0]})", "a checkpoint of the "
                              "architecture in the config's model section") from error  # fmt: skip


def _without_absent_scales(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    """Megatron asks for an `_extra_state` (FP8 scales) of every linear layer; an HF import has none."""
    held = load_sharded_metadata(str(path))
    return {
        chunk: {n: v for n, v in part.items() if not isinstance(v, ShardedObject) or v.unique_key in held}
        for chunk, part in state.items()
    }


def _by_chunk(chunks: list[Any], loaded: dict[str, Any]) -> Iterator[tuple[GPTModel, dict[str, Any]]]:
    for i, chunk in enumerate(unwrap_model(chunks)):
        yield chunk, loaded["model" if len(chunks) == 1 else f"model{i}"]


def _fill(chunks: list[Any], loaded: dict[str, Any]) -> None:
    for chunk, part in _by_chunk(chunks, loaded):
        chunk.load_state_dict(part, strict=False)


def drop_training(directory: Path) -> None:
    """Removes the training checkpoints; call it when `final/` is written."""
    if dist.get_rank() == 0:
        for old in [*directory.glob("step_*"), *directory.glob(".tmp-*")]:
            shutil.rmtree(old)
    dist.barrier()
