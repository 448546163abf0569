"""One rank of the tests of the DPO reference in bf16: in which rows it is computed, and what the first losses are.

torchrun --nproc-per-node 2 reference_worker.py OUTPUT_DIR
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch.distributed as dist

from nemo_srlm.errors import UserError
from nemo_srlm.train.megatron import dpo, reference, step
from nemo_srlm.train.megatron.job import start
from nemo_srlm.train.megatron.quiet import quiet
from tests.pipeline.trainer_worker import DPO, digest, documents, job, lines, pairs, run, stop_at

ROWS: dict[str, dict[str, Any]] = {
    "packed": {"micro_batch": 2},
    "filled": {"max_tokens_per_row": 64},
    "padded": {"micro_batch": 2, "packing": False},
}
EPOCH = 3  # steps: 24 pairs, 8 a step


def recorded(out: Path, name: str) -> dict[str, Any]:
    """A DPO of two epochs: the rows of every forward pass in order (pairs, shape, lengths), and the first DPO loss."""
    rows: list[Any] = []
    real = step.localize

    def localize(batch: Any, device: Any) -> Any:
        rows.append(
            [batch.positions, batch.tokens_BS.tolist(), None if batch.bounds_N1 is None else batch.bounds_N1.tolist()]
        )
        return real(batch, device)

    with mock.patch.object(step, "localize", localize):
        run(out, name, "dpo", {}, ROWS[name], None, DPO, dtype="bf16")
    first = lines(out / name)[0]
    return {"rows": rows, "dpo_loss": first["dpo_loss"], "loss": first["loss"]}


def resumed(out: Path, first: str, then: str) -> dict[str, Any]:
    """The settings of the rows in reference.npz, and its values, after a first attempt and after it is resumed."""
    directory, found = out / f"{first}-{then}", {}
    directory.mkdir(exist_ok=True, parents=True)
    stop_at(directory, start(job(directory, {}, ROWS[first], None, dtype="bf16")), "dpo")
    for when in ("before", "after"):
        if when == "after":
            run(out, directory.name, "dpo", {}, ROWS[then], None, DPO, dtype="bf16")
        with np.load(directory / reference.REFERENCE) as stored:
            found[when] = {"rows": json.loads(str(stored["rows"])), "logps": stored["logps"].tolist()}
        dist.barrier()
    return found


def wrong_in_one_step(out: Path) -> str:
    """The message when the reference of the last step's pairs alone is wrong, by 50 nats each way."""
    real = reference.load_or_compute

    def spoilt(trainer: Any, training: Any, validation: Any, other: Any) -> Any:
        found = real(trainer, training, validation, other)
        values = found.logps_R2.copy()
        values[[training.index(p) for p in range(16, 24)]] += [50.0, -50.0]
        return dataclasses.replace(found, logps_R2=values)

    out.mkdir(exist_ok=True, parents=True)
    with mock.patch.object(reference, "load_or_compute", spoilt):
        try:
            dpo.fit_dpo(start(job(out, {}, ROWS["packed"], None, dtype="bf16")), pairs(24, 21), documents(12, 9), DPO)
        except UserError as error:
            return str(error)
    return ""


def of_another_policy(out: Path) -> dict[str, Any]:
    """dpo.reference=m1: the reference computed beside other weights and by its own, and whether the trainer kept its own."""
    for name, lr in (("a", 1e-3), ("b", 2e-2)):
        run(out, name, "sft", {}, ROWS["packed"] | {"lr": lr}, None, dtype="bf16")
    a, b = out / "a" / "checkpoint", out / "b" / "checkpoint"
    digests, logps = [], []
    for name, initial, other in (("beside", a, b), ("alone", b, None)):
        (out / name).mkdir(exist_ok=True)
        trainer = start(job(out / name, {}, ROWS["packed"], initial, dtype="bf16"))
        before = digest(trainer)
        with mock.patch.object(dpo, "fit"):
            dpo.fit_dpo(trainer, pairs(24, 21), documents(12, 9), DPO, other=other)
        digests.append([before, digest(trainer)])
        with np.load(out / name / reference.REFERENCE) as stored:
            logps.append(stored["logps"].tolist())
        dist.barrier()
    return {"digests": digests, "logps": logps}


def main() -> None:
    quiet()
    out = Path(sys.argv[1])
    found: dict[str, Any] = {name: recorded(out, name) for name in ROWS}
    found |= {"same": resumed(out, "packed", "packed"), "other": resumed(out, "packed", "padded")}
    found["wrong"] = wrong_in_one_step(out / "wrong")
    found["another"] = of_another_policy(out)
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, found)
    if dist.get_rank() == 0:
        (out / "found.json").write_text(json.dumps(ranks))
    dist.barrier()


if __name__ == "__main__":
    main()
