"""Training checkpoints on disk: torch_dist files of Megatron's dist_checkpointing, written atomically.

What the directories are named and when one is complete: see checkpoint_dir.py. A checkpoint is written under a temporary
name, marked complete and renamed. It loads under any other parallel layout. Learning rate, data order and random state
are functions of the step, so the step number is all of their state.
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.dist_checkpointing.serialization import load_sharded_metadata
from megatron.core.models.gpt import GPTModel
from megatron.core.utils import unwrap_model

from nemo_srlm.errors import CheckpointError
from nemo_srlm.train.checkpoint_dir import COMPLETE_FILE, FINAL, latest, mark_complete, step_name
from nemo_srlm.train.megatron.save_strategy import InProcessSave

_METADATA = {"distrib_optim_sharding_type": "fully_reshardable"}


def model_state(chunks: list[Any]) -> dict[str, Any]:
    """Sharded weights of this rank's chunks, under their names in the whole model."""
    plain: list[GPTModel] = unwrap_model(chunks)
    if len(plain) == 1:
        return {"model": plain[0].sharded_state_dict(metadata=_metadata())}
    return {f"model{i}": chunk.sharded_state_dict(metadata=_metadata()) for i, chunk in enumerate(plain)}


def _metadata() -> dict[str, Any]:
    from megatron.core import parallel_state

    return {**_METADATA, "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True)}


def _optimizer_state(optimizer: Any, model: dict[str, Any], loading: bool) -> dict[str, Any]:
    flat = model["model"] if len(model) == 1 else model
    return dict(optimizer.sharded_state_dict(flat, is_loading=loading, metadata=_metadata()))


def save_model(directory: Path, chunks: list[Any], name: str = FINAL, notes: dict[str, Any] | None = None) -> None:
    """Writes `directory`/`name`: weights only, and `notes` (file name -> JSON). Every rank calls it."""
    _write(directory, name, model_state(chunks), notes or {})


def training_state(step: int, chunks: list[Any], optimizer: Any) -> dict[str, Any]:
    """Sharded weights and optimizer state, and the number of steps done: all that training resumes from."""
    state = model_state(chunks)
    return state | {"optimizer": _optimizer_state(optimizer, state, loading=False), "step": step}


def save_training(directory: Path, step: int, chunks: list[Any], optimizer: Any, keep_last: int) -> None:
    """Writes a checkpoint to resume from after `step` steps; keeps the newest `keep_last`. Every rank calls it."""
    _write(directory, step_name(step), training_state(step, chunks, optimizer), {})
    keep_newest(directory, keep_last)


def keep_newest(directory: Path, keep_last: int) -> None:
    if dist.get_rank() == 0:
        for old in sorted(directory.glob("step_*"))[:-keep_last]:
            shutil.rmtree(old)


def _write(directory: Path, name: str, state: dict[str, Any], notes: dict[str, Any]) -> None:
    temporary = make_temporary(directory, name)
    dist_checkpointing.save(state, str(temporary), sharded_strategy=InProcessSave(), validate_access_integrity=False)
    if dist.get_rank() == 0:
        for file, note in notes.items():
            (temporary / file).write_text(json.dumps(note), encoding="utf-8")
    publish(directory, name, temporary)


def make_temporary(directory: Path, name: str) -> Path:
    """A new directory, the same on every rank; its name is unique, so that no process of an earlier attempt writes there."""
    token = [f"{os.getpid()}-{time.time_ns()}"]
    dist.broadcast_object_list(token, src=0)
    temporary = directory / f".tmp-{name}-{token[0]}"
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
    path = directory if (directory / COMPLETE_FILE).is_file() else latest(directory)
    if path is None:
        raise CheckpointError(directory, "no complete checkpoint", "final/ or step_*/", "run the stage that writes it")
    _fill(chunks, _load(path, _without_absent_scales(path, model_state(chunks))))


def load_training(directory: Path, chunks: list[Any], optimizer: Any) -> int:
    """Restores the newest training checkpoint of `directory`; returns its step (0: there is none)."""
    path = latest(directory)
    if path is None:
        return 0
    if path.name == FINAL:
        raise CheckpointError(path, "training is finished", "a checkpoint to resume from", "nothing is left to train")
    _allocate(optimizer)
    wanted = model_state(chunks)
    wanted |= {"optimizer": _optimizer_state(optimizer, wanted, loading=True)}
    loaded = _load(path, wanted)
    _fill(chunks, loaded)
    _restore(optimizer, loaded["optimizer"])
    return int(loaded["step"])


def _load(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    try:
        return dict(dist_checkpointing.load(wanted, str(path)))
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


def _fill(chunks: list[Any], loaded: dict[str, Any]) -> None:
    for i, chunk in enumerate(unwrap_model(chunks)):
        chunk.load_state_dict(loaded["model" if len(chunks) == 1 else f"model{i}"], strict=False)


def _restore(optimizer: Any, loaded: dict[str, Any]) -> None:
    """Loads optimizer state in two parts, because of the `step` that torch's AdamW keeps for each parameter.

    Megatron 0.16 fails on that key while loading the moments. It would also make all parameters share one step tensor,
    which the next update would then increment once per parameter.
    """
    (inner,) = optimizer.chained_optimizers
    if "param_state" not in loaded:  # without the distributed optimizer
        inner.load_state_dict(loaded)
        return
    moments = loaded["param_state"]
    inner.load_state_dict({k: v for k, v in loaded.items() if k != "param_state"})
    states = list(inner.optimizer.state.values())
    steps = [state.pop("step", None) for state in states]
    inner.load_parameter_state_from_fully_reshardable(moments)
    for state, step in zip(states, steps, strict=True):
        if step is not None:
            state["step"] = step.clone()


def _allocate(optimizer: Any) -> None:
    """Makes zero optimizer states to load into; torch's AdamW would make them at its first step."""
    for inner in optimizer.chained_optimizers:
        for group in inner.optimizer.param_groups:
            for parameter in group["params"]:
                state = inner.optimizer.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"] = torch.zeros_like(parameter.data)
                    state["exp_avg_sq"] = torch.zeros_like(parameter.data)


def drop_training(directory: Path) -> None:
    """Removes the training checkpoints; call it when `final/` is written."""
    if dist.get_rank() == 0:
        for old in [*directory.glob("step_*"), *directory.glob(".tmp-*")]:
            shutil.rmtree(old)
    dist.barrier()
