"""How far DPO's first losses are from ln 2 when policy and reference are the same weights: by number format and row layout.

    python tools/bench/first_loss.py [--steps 64] [--formats bf16,delayed,tensorwise,blockwise,fp32] [--quick]

Each step of an epoch on a random model, on this machine's device; FP8 recipes only where the GPU has them. `other rows`:
against a reference whose rows have one document each.
"""

import argparse
import dataclasses
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from nemo_srlm.config.training import DpoSection, ModelSection, ParallelSection, PrecisionSection
from nemo_srlm.data.chat import Document
from nemo_srlm.doctor.inventory import machine
from nemo_srlm.train.batches import index_at
from nemo_srlm.train.megatron import reference
from nemo_srlm.train.megatron.dpo import dpo_task
from nemo_srlm.train.megatron.evaluation import step_pass
from nemo_srlm.train.megatron.job import Job, Trainer, start
from nemo_srlm.train.megatron.quiet import quiet
from nemo_srlm.train.megatron.reduction import micro_batch_loss, reduce_metrics

MODEL = ModelSection(num_layers=4, hidden_size=256, ffn_hidden_size=640, num_attention_heads=4, num_query_groups=2,
                     vocab_size=4096, max_length=256, init_std=0.05)  # fmt: skip
LAYOUTS: dict[str, dict[str, Any]] = {
    "packs of 4": {"micro_batch": 4}, "padded rows": {"micro_batch": 4, "packing": False},
    "rows of 512": {"micro_batch": 1, "max_tokens_per_row": 512},
}  # fmt: skip
SECTION = DpoSection(dropout=0.0, global_batch=16, max_length=256)


class Silent:
    def update(self, done: float, total: float, unit: str = "items", **info: float | str) -> None:
        pass


def pairs(count: int) -> list[reference.Pair]:
    rng = np.random.default_rng(0)

    def document() -> Document:
        length = int(np.clip(rng.lognormal(4.2, 0.6), 16, 256))
        weights = np.ones(length, np.float32)
        weights[:8] = 0.0
        return Document(rng.integers(3, MODEL.vocab_size, length).astype(np.int32), weights)

    return [reference.Pair(str(i), document(), document()) for i in range(count)]


def precision_of(number_format: str) -> PrecisionSection:
    if number_format in ("bf16", "fp32"):
        return PrecisionSection(dtype=number_format)
    return PrecisionSection(dtype="bf16", fp8="hybrid", fp8_recipe=number_format, fp8_bf16_layers=0)


def trainer_of(directory: Path, number_format: str, layout: dict[str, Any]) -> Trainer:
    section = dataclasses.replace(SECTION, **layout)
    precision = precision_of(number_format)
    return start(Job("dpo", MODEL, ParallelSection(processes=1), precision, section, 3, directory, None, Silent()))


def differences(trainer: Trainer, data: list[reference.Pair], known: reference.Reference) -> list[float]:
    """Loss - ln 2 of every step of the first epoch."""
    task = dpo_task(data, (), known, SECTION, 3)
    found = []
    for number in range(len(data) // SECTION.global_batch):
        collected = step_pass(trainer, task.unit_at, number, micro_batch_loss(task))
        values, _ = reduce_metrics(task, collected, (), trainer.device)
        found.append(values["dpo_loss"] - math.log(2.0))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=64)
    formats = ("bf16", *machine().fp8_recipes, "fp32")
    parser.add_argument("--formats", type=lambda text: tuple(text.split(",")), default=formats, metavar="FORMAT[,FORMAT]",
                        help=f"default: {','.join(formats)}")  # fmt: skip
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if unknown := set(args.formats) - set(formats):
        parser.error(f"--formats: {', '.join(sorted(unknown))}, expected some of {','.join(formats)}")
    quiet()
    data = pairs(SECTION.global_batch * (2 if args.quick else args.steps))
    for number_format in args.formats:
        known: dict[str, reference.Reference] = {}
        with tempfile.TemporaryDirectory() as temporary:
            for name, layout in {"alone": {"micro_batch": 1, "packing": False}, **LAYOUTS}.items():
                directory = Path(temporary, name)
                directory.mkdir()
                trainer = trainer_of(directory, number_format, layout)
                task = dpo_task(data, (), None, dataclasses.replace(SECTION, loss="simpo"), 3)
                training = reference.Training(data, task.unit_at, lambda p: index_at(p, len(data), 3))
                known[name] = reference.load_or_compute(trainer, training, ())
                same = differences(trainer, data, known[name])
                other = differences(trainer, data, known["alone"])
                line = {
                    "format": number_format, "rows": name, "steps": len(same), "largest": max(map(abs, same)),
                    "largest, other rows": max(map(abs, other)), "mean, other rows": float(np.mean(other)),
                }  # fmt: skip
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
