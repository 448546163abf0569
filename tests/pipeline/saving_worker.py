"""One rank of the tests of saving and restoring: overlapped communication, FusedAdam, the bytes that a rank holds.

torchrun --nproc-per-node 4 saving_worker.py OUTPUT_DIR      with two processes: replicas alone, and FP8 weights
"""

import dataclasses
import hashlib
import json
import math
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.fp8_utils import is_float8tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from nemo_srlm.config.training import ModelSection
from nemo_srlm.train import estimate
from nemo_srlm.train.megatron import checkpoint, optim, optimizer_state
from nemo_srlm.train.megatron.job import Trainer, start
from nemo_srlm.train.megatron.quiet import quiet
from nemo_srlm.train.megatron.save_strategy import InProcessSave
from nemo_srlm.train.megatron.tasks import sft_task
from nemo_srlm.train.megatron.trainer import fit, train_step
from tests.pipeline.fp8_tensor import fp8_weights
from tests.pipeline.fused_adam import in_place_of_adamw
from tests.pipeline.graph_tensors import replayed_on_the_cpu
from tests.pipeline.overlap import forced_overlap
from tests.pipeline.trainer_worker import digest, documents, job, stop_at

LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {  # by processes
    2: {"dp2": {}},
    4: {"dp2_tp2": {"tensor": 2}, "dp2_pp2_vpp2": {"pipeline": 2, "virtual_pipeline": 2}},
}
SECTION = {"max_steps": 3, "micro_batch": 2}
FULL_ROWS = SECTION | {"micro_batch": 1, "max_tokens_per_row": 128}
LARGE = ModelSection(
    num_layers=2, hidden_size=256, ffn_hidden_size=1024, num_attention_heads=4, num_query_groups=2, vocab_size=8000,
    vocab_multiple=8, max_length=64,
)  # fmt: skip


def tensors(directory: Path) -> dict[str, Any]:
    """Every tensor of a checkpoint, read from its files."""
    dist.barrier()
    reader = FileSystemReader(directory)
    state: dict[str, Any] = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in sorted(reader.read_metadata().state_dict_metadata.items())
        if isinstance(entry, TensorStorageMetadata)
    }
    load(state, storage_reader=reader, no_dist=True)
    return state


def stored(directory: Path) -> str:
    """Digest of every tensor of a checkpoint."""
    found = hashlib.sha256()
    for key, tensor in tensors(directory).items():
        found.update(key.encode() + tensor.float().numpy().tobytes())
    return found.hexdigest()


def trained(
    out: Path, layout: dict[str, Any], within: AbstractContextManager[None], stopped: bool, initial: Path | None = None,
    **precision: Any,
) -> dict[str, Any]:  # fmt: skip
    """Three steps, without interruption or stopped after the first and resumed: digests of all that was saved."""
    found: dict[str, Any] = {}
    out.mkdir(exist_ok=True, parents=True)
    made = dataclasses.replace(job(out, layout, SECTION, initial, dtype="bf16", **precision), keep_every=2)
    with within:
        if stopped:
            stop_at(out, start(made), "sft")
            found["step"] = stored(out / "checkpoint" / "step_00000001")
        trainer = start(made)
        fit(trainer, sft_task(documents(40, 3), 7, 0.25))
        found |= {name: stored(out / "checkpoint" / name) for name in ("weights_00000002", "final")}
        found["held"] = digest(trainer)
    return found


def check_overlap(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, layout in LAYOUTS[dist.get_world_size()].items():
        for kind in ("plain", "overlapped"):
            for how in ("whole", "resumed"):
                within = forced_overlap() if kind == "overlapped" else nullcontext()
                found[f"{name}/{kind}/{how}"] = trained(out / f"{name}-{kind}-{how}", layout, within, how == "resumed")
    return found


def check_fp8_weights(out: Path) -> dict[str, Any]:
    """A training whose matrices exist in FP8 alone, after one in bf16, from whose weights it starts."""
    bf16 = {"fp8_param_gather": False}
    found: dict[str, Any] = {"before": trained(out / "bf16", {}, nullcontext(), False, **bf16)}
    initial = out / "bf16" / "checkpoint"
    for how in ("whole", "resumed"):
        with forced_overlap():  # gloo's own coalescing would concatenate bytes and bf16
            found[how] = trained(out / how, {}, fp8_weights(), how == "resumed", initial, fp8_param_gather=True)
    made = job(out / "main", {}, SECTION, initial, dtype="bf16", fp8_param_gather=True)
    made.directory.mkdir(exist_ok=True)
    with fp8_weights():
        trainer = start(made)
        held = {"fp8": sum(is_float8tensor(p) for chunk in trainer.chunks for p in chunk.parameters())}
        optimizer_state.allocate(trainer.optimizer)
        checkpoint.save_training(made.checkpoints, 0, trainer.chunks, trainer.optimizer, keep_last=1)
        checkpoint.save_model(made.checkpoints, trainer.chunks, trainer.optimizer)
        held["rounded"] = digest(trainer)
    state = tensors(made.checkpoints / "step_00000000")
    masters = {k.removeprefix("optimizer.state.param."): v for k, v in state.items() if ".state.param." in k}
    imported = tensors(initial / "final")
    held["exact"] = sum(torch.equal(masters[k].bfloat16(), imported[k]) for k in imported)
    held["weights"] = len(imported)
    held["saved"] = stored(made.checkpoints / "final")
    return found | {"start": held}


def check_graphs(out: Path) -> dict[str, Any]:
    """Rows of one length, before anything is recorded and with replayed MLPs; the latter with both overlaps."""
    found: dict[str, Any] = {}
    for name, warmup in (("plain", 99), ("whole", 1), ("resumed", 1)):
        replays: list[tuple[int, ...]] = []
        with forced_overlap() if warmup == 1 else nullcontext(), mock.patch(f"{__name__}.SECTION", FULL_ROWS):
            within = replayed_on_the_cpu(replays, warmup)
            found[name] = trained(out / name, {}, within, name == "resumed", cuda_graphs="mlp")
        found[f"{name} replays"] = sorted(set(replays))
    return found


def check_fused_adam(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, distributed in (("distributed", True), ("plain", False)):
        for how in ("whole", "resumed"):
            layout = {"tensor": 2, "distributed_optimizer": distributed}
            found[f"{name}/{how}"] = trained(out / f"{name}-{how}", layout, in_place_of_adamw(), how == "resumed")
    return found


def highest(of: str) -> int:
    """Bytes of resident memory of this process: VmRSS now, VmHWM at most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(of))
    return int(line.split()[1]) * 1024


def forget_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return highest("VmRSS")


def large_trainer(out: Path) -> Trainer:
    out.mkdir(exist_ok=True, parents=True)
    return start(dataclasses.replace(job(out, {}, {}, None), model=LARGE))


def check_memory(out: Path) -> dict[str, Any]:
    """Growth of this rank's memory while a training checkpoint of four replicas is written, and while it is read."""
    trainer = large_trainer(out)
    train_step(trainer, sft_task(documents(40, 3), 7), optim.build_scheduler(trainer.optimizer, trainer.job.train, 6), 0,
               lambda: "")  # fmt: skip
    (inner,) = trainer.optimizer.chained_optimizers
    held = {p: inner._get_main_param_and_optimizer_states(p) for p, _ in optimizer_state.owned(inner)}
    found: dict[str, Any] = {
        "state": 12 * sum(p.numel() for chunk in trainer.chunks for p in chunk.parameters()),
        "owned": sum(4 * math.prod(state[n].shape) for state in held.values() for n in optimizer_state.STATE_NAMES),
    }  # fmt: skip
    before = forget_peak()
    checkpoint.save_training(out / "checkpoint", 1, trainer.chunks, trainer.optimizer, keep_last=1)
    found["save"] = highest("VmHWM") - before
    found["written"] = sum(p.stat().st_size for p in (out / "checkpoint" / "step_00000001").iterdir())
    found["estimate"] = estimate.save_memory(LARGE, trainer.job.parallel, trainer.job.precision)
    found["ours"] = stored(out / "checkpoint" / "step_00000001")
    before = forget_peak()
    gathered(out / "gathered", trainer)
    found["gathered"] = highest("VmHWM") - before
    found["megatrons"] = stored(out / "gathered")
    again = large_trainer(out)
    before = forget_peak()
    assert checkpoint.load_training(out / "checkpoint", again.chunks, again.optimizer) == 1
    found["load"] = highest("VmHWM") - before
    return found


def gathered(directory: Path, trainer: Trainer) -> None:
    """The same checkpoint by Megatron, for which every replica gathers the state."""
    model = checkpoint.model_state(trainer.chunks)
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    metadata = {"distrib_optim_sharding_type": optimizer_state.FORMAT, "dp_cp_group": group}
    state = model | {"optimizer": trainer.optimizer.sharded_state_dict(model["model"], metadata=metadata)}
    directory.mkdir(exist_ok=True)
    dist.barrier()
    dist_checkpointing.save(state, str(directory), sharded_strategy=InProcessSave(), validate_access_integrity=False)


def main() -> None:
    quiet()
    out = Path(sys.argv[1])
    start(job(out, {}, {}, None))  # initialises the process group
    found = {"overlap": check_overlap(out / "overlap")}
    if dist.get_world_size() == 2:
        found["fp8_weights"] = check_fp8_weights(out / "fp8_weights")
        found["graphs"] = check_graphs(out / "graphs")
    else:
        found["fused_adam"] = check_fused_adam(out / "fused_adam")
        found["memory"] = check_memory(out / "memory")
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, found)
    if dist.get_rank() == 0:
        (out / "found.json").write_text(json.dumps(ranks))
    dist.barrier()


if __name__ == "__main__":
    main()
