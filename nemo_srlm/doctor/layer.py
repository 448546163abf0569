"""The speed of training on shapes of a large model: tokens/s, TFLOP/s and MFU of whole steps. Random tokens and weights."""

import dataclasses
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection, TrainSection
from nemo_srlm.data.chat import Document
from nemo_srlm.doctor.check import Failed, Figures, Place
from nemo_srlm.errors import UserError
from nemo_srlm.train import estimate

# Llama 2 70B's layer. The vocabulary is small: with few layers its matrices would be most of the work.
LAYER_70B = ModelSection(num_layers=1, vocab_size=1024, max_length=4096)
SECTION = TrainSection(lr=1e-6, min_lr=1e-6, warmup_steps=0, dropout=0.0, global_batch=4, micro_batch=1, max_steps=6,
                       max_length=4096, save_every=0)  # fmt: skip
WARM_UP = 2  # steps that are not timed: kernels are chosen and memory is allocated in them
FP8 = ("delayed", "tensorwise", "blockwise", "mxfp8")


@dataclass(frozen=True)
class Speed:
    """Of the timed steps' median. `mfu`: model FLOPs utilisation of the GPU's dense peak, None where that is unknown."""

    seconds: float
    tokens_per_s: float
    tflops: float
    mfu: float | None


class _Silent:
    def update(self, done: float, total: float, unit: str = "items", **info: float | str) -> None:
        pass


def measure(
    directory: Path, model: ModelSection, precision: PrecisionSection, section: TrainSection, lengths: list[int],
    peak_tflops: float = 0.0, warm_up: int = WARM_UP,
) -> Speed:  # fmt: skip
    """Trains `section.max_steps` steps of SFT on documents of so many inputs each, on one device. Call it once per process.

    `peak_tflops`: 0 = by the GPU's name. `warm_up`: steps that are not timed.
    """
    import torch

    from nemo_srlm.train.megatron import optim
    from nemo_srlm.train.megatron.job import Job, start
    from nemo_srlm.train.megatron.tasks import sft_task
    from nemo_srlm.train.megatron.trainer import train_step

    rng = np.random.default_rng(0)
    documents = [_document(rng, model.vocab_size, length) for length in lengths]
    parallel = ParallelSection(processes=1, peak_tflops=peak_tflops)
    trainer = start(Job("speed", model, parallel, precision, section, 0, directory, None, _Silent()))
    task = sft_task(documents, 0)
    scheduler = optim.build_scheduler(trainer.optimizer, section, section.max_steps)
    on_gpu = torch.cuda.is_available()
    results = []
    for number in range(section.max_steps):
        if on_gpu:
            torch.cuda.synchronize()
        began = time.perf_counter()
        done = train_step(trainer, task, scheduler, number, str)
        if on_gpu:
            torch.cuda.synchronize()
        results.append(dataclasses.replace(done, seconds=time.perf_counter() - began))
    timed = results[warm_up:]
    rates = [
        estimate.training_flops(model, r.tokens, r.squared_lengths, r.targets) / r.seconds / 1e12 for r in timed
    ]  # fmt: skip
    known = estimate.gpu_of(torch.cuda.get_device_name()) if on_gpu else None
    peak = peak_tflops or (known.peak(precision) if known else 0.0)
    tflops = statistics.median(rates)
    return Speed(
        statistics.median(r.seconds for r in timed), statistics.median(r.tokens / r.seconds for r in timed), tflops,
        tflops / peak if peak else None,
    )  # fmt: skip


def _document(rng: np.random.Generator, vocab_size: int, num_inputs: int) -> Document:
    weights = np.ones(num_inputs + 1, np.float32)
    weights[0] = 0.0  # nothing predicts the first token
    return Document(rng.integers(3, vocab_size, num_inputs + 1).astype(np.int32), weights)


def figures(name: str, speed: Speed) -> Figures:
    found: Figures = {f"{name} tokens/s": round(speed.tokens_per_s), f"{name} TFLOP/s": round(speed.tflops, 1)}
    return found | ({f"{name} MFU": round(speed.mfu, 3)} if speed.mfu is not None else {})


def check(place: Place) -> Figures:
    """bf16 on one GPU. FP8 and other shapes: tools/bench/mfu.py."""
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    lengths = [SECTION.max_length] * SECTION.global_batch
    try:
        speed = measure(place.directory / "layer", LAYER_70B, PrecisionSection(dtype="bf16"), SECTION, lengths)
    except UserError as error:
        raise Failed(str(error)) from error
    return figures("bf16", speed)
