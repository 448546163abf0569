"""One rank of the tests of shared-prefix rows: losses, gradients and the reference beside those of plain rows.

torchrun --nproc-per-node 2 shared_prefix_worker.py OUTPUT_DIR
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from megatron.core.utils import unwrap_model

from nemo_srlm.config.training import DpoSection
from nemo_srlm.data.chat import Document
from nemo_srlm.train.megatron import dpo, reference, step, target_logits
from nemo_srlm.train.megatron.evaluation import evaluate, training_batches
from nemo_srlm.train.megatron.job import Trainer, start
from nemo_srlm.train.megatron.quiet import quiet
from nemo_srlm.train.megatron.reduction import micro_batch_loss
from nemo_srlm.train.megatron.reference import Pair, Reference
from tests.pipeline.trainer_worker import DPO, documents, job, lines

LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dp2": ({}, {"micro_batch": 4}),
    "dp2_one": ({}, {"micro_batch": 1}),
    "filled": ({}, {"max_tokens_per_row": 160, "row_multiple": 16}),
    "tp2_sp": ({"tensor": 2, "sequence": True}, {"micro_batch": 4}),
    "pp2": ({"pipeline": 2}, {"micro_batch": 2}),
    "vpp2": ({"pipeline": 2, "virtual_pipeline": 2}, {"max_tokens_per_row": 160}),
    "cp2": ({"context": 2}, {"micro_batch": 4}),
}
DROPOUT = {"micro_batch": 4, "dropout": 0.1}
STEPS = 4


def pairs(count: int, seed: int) -> list[Pair]:
    """Prompts of 4 to 45 tokens, so that some are too short to be shared, and responses of 3 to 16."""
    rng = np.random.default_rng(seed)

    def document(prompt: list[int]) -> Document:
        response = rng.integers(3, 60, int(rng.integers(3, 17))).tolist()
        weights = np.array([0.0] * len(prompt) + [1.0] * len(response), np.float32)
        return Document(np.array(prompt + response, np.int32), weights)

    prompts = [rng.integers(3, 60, int(rng.integers(4, 46))).tolist() for _ in range(count)]
    return [Pair(f"{seed}-{i}", document(prompt), document(prompt)) for i, prompt in enumerate(prompts)]


def of_step(trainer: Trainer, known: Reference, section: DpoSection) -> dict[str, Any]:
    """Loss and gradients of the first step's micro-batches, and how many tokens they read."""
    shared = dataclasses.replace(trainer, layout=dataclasses.replace(trainer.layout, shared=section.shared_prefix))
    task = dpo.dpo_task(pairs(24, 1), documents(12, 9), known, section, 5)
    for chunk in trainer.chunks:
        chunk.zero_grad_buffer()
    batches = training_batches(shared, task.unit_at, 0)
    read: list[int] = []  # positions of each call of the output layer
    layers = [unwrap_model(chunk).output_layer for chunk in trainer.chunks if unwrap_model(chunk).post_process]
    handles = [x.register_forward_hook(lambda _, args, out: read.append(out[0].shape[:2].numel())) for x in layers]
    step.run_schedule(trainer.chunks, batches, micro_batch_loss(task), trainer.device, forward_only=False)
    for handle in handles:
        handle.remove()
    gradients = torch.cat([buffer.grad_data for chunk in trainer.chunks for buffer in chunk.buffers])
    return {
        "gradients": gradients.clone(),
        "tokens": sum(b.num_tokens for b in batches),
        "targets": sum(b.num_targets for b in batches),
        "logits": sum(read),
        "loss": evaluate(shared, task),
    }


def exact(out: Path, name: str) -> dict[str, Any]:
    """Plain rows and shared ones under one layout, from the same weights: one step, and a short training of each."""
    parallel, section = LAYOUTS[name]
    found: dict[str, Any] = {}
    made: dict[bool, dict[str, Any]] = {}
    values = np.random.default_rng(3).normal(-60.0, 2.0, (24, 2))
    known = Reference([pair.id for pair in pairs(24, 1)], values, "")
    for shared in (False, True):
        settings = dataclasses.replace(DPO, shared_prefix=shared)
        directory = out / f"{name}-{shared}"
        directory.mkdir(parents=True, exist_ok=True)
        trainer = start(job(directory, {**parallel, "distributed_optimizer": False}, section, None))
        made[shared] = of_step(trainer, known, settings)
        if not shared:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(target_logits, "selects", lambda chunk: False)
                made_with_all_logits = of_step(trainer, known, settings)
        training = start(job(directory, parallel, {**section, "max_steps": STEPS}, None))
        dpo.fit_dpo(training, pairs(24, 1), documents(12, 9), settings, pairs(6, 2))
        dist.barrier()
        written = lines(directory)
        steps = [line for line in written if "validation" not in line]
        with np.load(directory / reference.REFERENCE) as stored:
            logps, rows = stored["logps"].tolist(), json.loads(str(stored["rows"]))
        found["shared" if shared else "plain"] = {
            "tokens": made[shared]["tokens"], "loss": made[shared]["loss"], "losses": [s["loss"] for s in steps],
            "norms": [s["grad_norm"] for s in steps], "validation": written[-1]["validation"], "logps": logps, "rows": rows,
        }  # fmt: skip
    plain, of_all = made[False], made_with_all_logits
    found["largest"] = float(plain["gradients"].abs().max())
    for key, other in (("difference", made[True]), ("difference_of_all_logits", of_all)):
        found[key] = float((plain["gradients"] - other["gradients"]).abs().max())
    found["loss_of_all_logits"], found["logits"] = of_all["loss"], (plain["logits"], plain["targets"], of_all["logits"])
    return found


def trained(out: Path, name: str, section: dict[str, Any], **changes: Any) -> list[float]:
    """Losses of a training on shared rows."""
    (out / name).mkdir(parents=True, exist_ok=True)
    trainer = start(job(out / name, {}, {**section, "max_steps": STEPS}, None, **changes))
    dpo.fit_dpo(trainer, pairs(24, 1), documents(12, 9), dataclasses.replace(DPO, shared_prefix=True))
    dist.barrier()
    return [line["loss"] for line in lines(out / name) if "validation" not in line]


def main() -> None:
    quiet()
    out = Path(sys.argv[1])
    found: dict[str, Any] = {name: exact(out, name) for name in LAYOUTS}
    section = LAYOUTS["dp2"][1]
    found["recompute"] = trained(out, "recompute", section, recompute="full")
    found["bf16"] = trained(out, "bf16", section, dtype="bf16")
    found["dropout"] = trained(out, "dropout", DROPOUT)
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, found)
    if dist.get_rank() == 0:
        (out / "found.json").write_text(json.dumps(ranks))
    dist.barrier()


if __name__ == "__main__":
    main()
