"""One rank of the trainer tests: runs all checks in one process group and writes the results as JSON.

torchrun --nproc-per-node N trainer_worker.py OUTPUT_DIR CHECK...
"""

import dataclasses
import hashlib
import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core.utils import unwrap_model

from nemo_srlm.config.training import DpoSection, ModelSection, ParallelSection, PrecisionSection, TrainSection
from nemo_srlm.core.control import stop_file
from nemo_srlm.data.chat import Document
from nemo_srlm.train import estimate, metrics
from nemo_srlm.train.batches import collate
from nemo_srlm.train.megatron import step
from nemo_srlm.train.megatron.dpo import fit_dpo
from nemo_srlm.train.megatron.evaluation import evaluate
from nemo_srlm.train.megatron.job import Job, Trainer, start
from nemo_srlm.train.megatron.quiet import quiet
from nemo_srlm.train.megatron.reference import REFERENCE, Pair
from nemo_srlm.train.megatron.tasks import Task, sft_task
from nemo_srlm.train.megatron.trainer import Stopped, fit

MODEL = ModelSection(
    num_layers=4, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, num_query_groups=2, vocab_size=60,
    vocab_multiple=8, max_length=64, init_std=0.1,
)  # fmt: skip
TRAIN = TrainSection(
    lr=5e-3, min_lr=5e-4, warmup_steps=2, weight_decay=0.1, dropout=0.0, global_batch=8, micro_batch=1, max_steps=6,
    max_length=64, save_every=0, clip_grad=1.0,
)  # fmt: skip
DPO = DpoSection(nll_weight=0.2, replay_weight=0.3)


class Silent:
    def update(self, done: float, total: float, unit: str = "items", **info: float | str) -> None:
        pass


def documents(count: int, seed: int) -> list[Document]:
    """Learnable documents: each id is a function of the previous one, with some noise."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ids = [1, int(rng.integers(3, 60))]
        for _ in range(int(rng.integers(6, 30))):
            ids.append(int((ids[-1] * 7 + rng.integers(0, 2)) % 57 + 3))
        weights = np.ones(len(ids), np.float32)
        weights[0] = 0.0
        weights[1:4] = 0.25
        made.append(Document(np.array(ids, np.int32), weights))
    return made


def with_targets(document: Document) -> Document:
    return Document(document.ids, (document.weights == 1.0).astype(np.float32))


def pairs(count: int, seed: int) -> list[Pair]:
    chosen, rejected = documents(count, seed), documents(count, seed + 1)
    return [
        Pair(str(i), with_targets(c), with_targets(r)) for i, (c, r) in enumerate(zip(chosen, rejected, strict=True))
    ]


def job(
    directory: Path, parallel: dict[str, Any], section: dict[str, Any], initial: Path | None, family: str = "llama",
    tied: bool = False, **precision: Any,
) -> Job:  # fmt: skip
    layout = ParallelSection(processes=dist_size(), **parallel)
    model = dataclasses.replace(MODEL, family=family, tie_embeddings=tied)
    return Job(
        "test", model, layout, PrecisionSection(**{"dtype": "fp32", **precision}),
        dataclasses.replace(TRAIN, **section), 11, directory, initial, Silent(),
    )  # fmt: skip


def dist_size() -> int:
    import os

    return int(os.environ["WORLD_SIZE"])


def digest(trainer: Trainer) -> str:
    found = hashlib.sha256()
    for chunk in trainer.chunks:
        for parameter in chunk.parameters():
            found.update(parameter.detach().float().numpy().tobytes())
    return found.hexdigest()


def held_bytes(trainer: Trainer) -> dict[str, Any]:
    """Bytes of weights, gradients and moments on this rank after training, with the estimate for its pipeline stage."""
    from megatron.core import parallel_state

    states = [s for o in trainer.optimizer.chained_optimizers for s in o.optimizer.state.values()]
    moments = [s[name] for s in states for name in ("exp_avg", "exp_avg_sq")]
    buffers = [b.grad_data for chunk in trainer.chunks for b in chunk.buffers]
    made, stage = trainer.job, parallel_state.get_pipeline_model_parallel_rank()
    work = estimate.Work("test", made.train, 1)
    wanted = estimate.stage_memory(made.model, made.parallel, made.precision, work, stage)
    return {
        "stage": stage, "estimate": (wanted.weights, wanted.gradients, wanted.optimizer),
        "weights": sum(p.numel() * p.element_size() for chunk in trainer.chunks for p in chunk.parameters()),
        "gradients": sum(b.numel() * b.element_size() for b in buffers),
        "optimizer": sum(m.numel() * m.element_size() for m in moments),
    }  # fmt: skip


def held_out() -> Task:
    return sft_task(documents(10, 5), 0, 0.25, shuffled=False)


def layer_bytes(trainer: Trainer) -> dict[str, float]:
    """Bytes that the second layer saves for the backward pass of a micro-batch: measured, and by the estimate."""
    made = trainer.job
    units = [(d,) for d in documents(2, 8)]
    batch = step.localize(collate(units, range(2), trainer.layout), trainer.device)
    (chunk,) = trainer.chunks
    layer = unwrap_model(chunk).decoder.layers[1]
    weights = {p.untyped_storage().data_ptr() for p in chunk.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    handles = [
        layer.register_forward_pre_hook(lambda *_: hooks.__enter__()),
        layer.register_forward_hook(lambda *_: hooks.__exit__()),
    ]
    step.forward(chunk, batch, batch.labels_BS)
    for handle in handles:
        handle.remove()
    wanted = estimate.layer_activations(
        made.model, made.parallel, made.precision, batch.row_length, made.train.dropout, fused=False
    )
    return {"kept": sum(kept.values()), "estimate": wanted}


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / metrics.METRICS).read_text().splitlines()]


def run(out: Path, name: str, kind: str, parallel: dict[str, Any], section: dict[str, Any], initial: Path | None,
        settings: DpoSection = DPO, **changes: Any) -> dict[str, Any]:  # fmt: skip
    """One short training: losses and gradient norms of its steps, and a digest of this rank's final weights."""
    directory = out / name
    if dist.is_initialized():
        dist.barrier()
    directory.mkdir(exist_ok=True, parents=True)
    trainer = start(job(directory, parallel, section, initial, **changes))
    if kind == "sft":
        fit(trainer, sft_task(documents(40, 3), 7, 0.25), held_out())
    else:
        replay = documents(12, 9) if settings.replay_weight else []
        fit_dpo(trainer, pairs(24, 21), replay, settings)
    dist.barrier()
    found: dict[str, Any] = {"digest": digest(trainer), "bytes": held_bytes(trainer)}
    found["reference"] = (directory / REFERENCE).exists()
    if name in ("sft-dp4", "sft-tp2", "sft-tp2_sp", "qwen2-dp4", "qwen3-dp4"):
        found["layer"] = layer_bytes(trainer)
    steps = [line for line in lines(directory) if "validation" not in line]
    found["lines"] = [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_s", "per")} for line in steps]
    found["losses"], found["norms"] = [s["loss"] for s in steps], [s["grad_norm"] for s in steps]
    checks = [line["validation"] for line in lines(directory) if "validation" in line]
    found["validation"] = checks[-1]["loss"] if checks else None
    return found


LAYOUTS: dict[str, dict[str, Any]] = {
    "dp4": {},
    "tp2": {"tensor": 2},
    "tp2_sp": {"tensor": 2, "sequence": True},
    "pp2": {"pipeline": 2},
    "vpp2": {"pipeline": 2, "virtual_pipeline": 2},
    "tp2_sp_pp2": {"tensor": 2, "sequence": True, "pipeline": 2},
    "cp2": {"context": 2},
    "cp2_tp2_sp": {"context": 2, "tensor": 2, "sequence": True},
    "plain_optimizer": {"distributed_optimizer": False},
}
FAMILIES = ("qwen2", "qwen3")  # with parameters that Llama has not: biases, norms that every head of a rank shares
# for tools/bench/layouts.py: number of processes that a layout needs with one data-parallel replica -> its settings
STEPS: dict[int, dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    1: {"one": ({}, {})},
    2: {
        "tp2": ({"tensor": 2}, {}), "pp2": ({"pipeline": 2}, {}), "tp2_sp": ({"tensor": 2, "sequence": True}, {}),
        "vpp2": ({"pipeline": 2, "virtual_pipeline": 2}, {}), "cp2": ({"context": 2}, {}), "dp2": ({}, {}),
        "dp2_1x4": ({}, {"micro_batch": 4}), "dp2_unpacked": ({}, {"micro_batch": 4, "packing": False}),
    },
    4: {
        "tp2_pp2": ({"tensor": 2, "pipeline": 2}, {}), "tp2_sp_pp2": (LAYOUTS["tp2_sp_pp2"], {}),
        "cp2_tp2_sp": (LAYOUTS["cp2_tp2_sp"], {}), "tp2_dp2": ({"tensor": 2}, {}), "dp4": ({}, {}),
    },
}  # fmt: skip


def in_two(parallel: dict[str, Any]) -> dict[str, Any]:
    """The largest micro-batch that makes two of a replica's share: in every one the four processes wait for each other."""
    replicas = dist_size() // math.prod(parallel.get(name, 1) for name in ("tensor", "pipeline", "context"))
    return {"micro_batch": TRAIN.global_batch // replicas // 2}


def check_layouts(out: Path) -> dict[str, Any]:
    """Every layout from the same initial weights; then trainings from checkpoints written under two different layouts."""
    found: dict[str, Any] = {}
    for name, layout in LAYOUTS.items():
        for kind in ("sft", "dpo"):
            found[f"{kind}/{name}"] = run(out, f"{kind}-{name}", kind, layout, in_two(layout), None)
    resumed = out / "sft-resumed"
    resumed.mkdir(exist_ok=True)  # every rank creates it
    stop_at(resumed, start(job(resumed, {}, {}, None)), "sft")
    both = LAYOUTS["tp2_sp_pp2"]
    found["resume/tp2_sp_pp2"] = run(out, "sft-resumed", "sft", both, in_two(both), None)
    for key, name, kind, layout, initial, precision in (
        ("reload/tp2_sp_pp2", "a", "dpo", {"tensor": 2}, out / "sft-tp2_sp_pp2" / "checkpoint", {}),
        ("reload/dp4", "b", "dpo", {"pipeline": 2}, out / "sft-dp4" / "checkpoint", {}),
        ("filled/vpp2", "e", "dpo", LAYOUTS["vpp2"], None, {}),
        ("recompute/full", "c", "sft", {"tensor": 2, "pipeline": 2}, None, {"recompute": "full"}),
        ("recompute/selective", "d", "sft", {}, None, {"recompute": "selective"}),
    ):
        section = {"max_tokens_per_row": 64} if key.startswith("filled") else in_two(layout)
        found[key] = run(out, name, kind, layout, {**section, "max_steps": 2}, initial, **precision)
    for family, name in itertools.product(FAMILIES, ("dp4", "tp2", "tp2_sp_pp2")):
        section = {**in_two(LAYOUTS[name]), "max_steps": 4}
        found[f"{family}/{name}"] = run(out, f"{family}-{name}", "sft", LAYOUTS[name], section, None, family=family)
    # ten held-out documents, four to a micro-batch: the last one has fewer rows, and stages exchange tensors of one shape
    for name, section in {"dp4": {"micro_batch": 2}, "pp2": {"micro_batch": 4, "packing": False}}.items():
        found[f"tied/{name}"] = run(
            out, f"tied-{name}", "sft", LAYOUTS[name], {**section, "max_steps": 4}, None, tied=True
        )
    return found


def check_steps(out: Path) -> dict[str, Any]:
    """Twenty steps of every layout with this number of processes (tools/bench/layouts.py)."""
    found: dict[str, Any] = {}
    for name, (layout, section) in STEPS[dist_size()].items():
        for kind in ("sft", "dpo"):
            found[f"{kind}/{name}"] = run(out, f"{kind}-{name}", kind, layout, {**section, "max_steps": 20}, None)
    return found


def check_batches(out: Path) -> dict[str, Any]:
    """Splits of one global batch, packing, and variants of DPO, on two data-parallel replicas."""
    found: dict[str, Any] = {}
    for kind in ("sft", "dpo"):
        for name, section in {
            "micro1": {"micro_batch": 1}, "micro4": {"micro_batch": 4}, "filled": {"max_tokens_per_row": 64},
            "rows": {"micro_batch": 4, "packing": False},
            "rows1": {"micro_batch": 1, "packing": False},
        }.items():  # fmt: skip
            found[f"{kind}/{name}"] = run(out, f"{kind}-{name}", kind, {}, section, None)
    variants = {
        "plain": DpoSection(), "ipo": DpoSection(loss="ipo", beta=0.5),
        "smooth": DpoSection(label_smoothing=0.1), "normalised": DpoSection(length_normalised=True, beta=2.0),
        "simpo": DpoSection(loss="simpo", beta=2.0),
    }  # fmt: skip
    for name, settings in variants.items():
        found[f"variant/{name}"] = run(out, f"variant-{name}", "dpo", {}, {"dropout": 0.0}, None, settings)
    found["dropout"] = run(out, "dropout", "dpo", {}, {"dropout": 0.1}, None)
    found["bf16"] = run(out, "bf16", "sft", {}, {}, None, dtype="bf16")
    found["bf16_sums"] = run(out, "bf16_sums", "sft", {}, {}, None, dtype="bf16", grad_reduce_in_fp32=False)
    return found


def check_resume(out: Path) -> dict[str, Any]:
    """Six steps without interruption, and the same stopped after the first step and resumed from its checkpoint."""
    found: dict[str, Any] = {}
    for kind, budget in (("sft", 0), ("dpo", 64)):
        section = {"dropout": 0.1, "save_every": 2, "max_tokens_per_row": budget}
        found[f"{kind}/whole"] = run(out, f"{kind}-whole", kind, {}, section, None)
        torn = out / f"{kind}-torn"
        torn.mkdir(exist_ok=True)
        trainer = start(job(torn, {}, section, None))
        stop_at(torn, trainer, kind)
        found[f"{kind}/resumed"] = run(out, f"{kind}-torn", kind, {}, section, None)
    for name in ("whole", "resumed"):
        found[f"best/{name}"] = best(out / f"best-{name}", stopped=name == "resumed")
    return found


def best(directory: Path, stopped: bool) -> dict[str, Any]:
    """A training with a far too high learning rate and keep_best: its best step, and the validation loss of the kept weights."""
    section = {"keep_best": True, "validate_every": 1, "save_every": 2, "lr": 0.05, "min_lr": 0.05}
    directory.mkdir(exist_ok=True)
    if stopped:
        stop_at(directory, start(job(directory, {}, section, None)), "sft")
    run(directory.parent, directory.name, "sft", {}, section, None)
    loaded = start(job(directory.with_name(f"{directory.name}-loaded"), {}, {}, directory / "checkpoint"))
    checks = [(line["step"], line["validation"]["loss"]) for line in lines(directory) if "validation" in line]
    return {
        "kept": json.loads((directory / "checkpoint" / "final" / "best.json").read_text()), "checks": checks,
        "scores": evaluate(loaded, held_out())["loss"], "digest": digest(loaded), "bytes": None,
        "left": sorted(path.name for path in (directory / "checkpoint").iterdir()),
    }  # fmt: skip


def stop_at(directory: Path, trainer: Trainer, kind: str) -> None:
    """Runs a first attempt with a stop file, so that it saves and stops after its first step."""
    stop_file(directory).touch()
    try:
        if kind == "sft":
            fit(trainer, sft_task(documents(40, 3), 7, 0.25), held_out())
        else:
            fit_dpo(trainer, pairs(24, 21), documents(12, 9), DPO)
    except Stopped:
        pass
    dist.barrier()
    stop_file(directory).unlink(missing_ok=True)
    dist.barrier()


CHECKS = {"layouts": check_layouts, "batches": check_batches, "resume": check_resume, "steps": check_steps}


def main() -> None:
    quiet()
    out = Path(sys.argv[1])
    for name in sys.argv[2:]:
        found = CHECKS[name](out / name)
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, {k: (v["digest"], v["bytes"]) for k, v in found.items()})
        if dist.get_rank() == 0:
            for key, value in found.items():
                value["digests"], value["bytes"] = ([g[key][i] for g in gathered] for i in (0, 1))
            (out / f"{name}.json").write_text(json.dumps(found))
        dist.barrier()


if __name__ == "__main__":
    main()
