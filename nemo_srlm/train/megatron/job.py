"""What a training stage asks for (Job), and the live objects that a process makes of it (Trainer, `start`)."""

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection, TrainSection
from nemo_srlm.core.trackers import NO_PROJECTS, Projects
from nemo_srlm.train.batches import BatchLayout, batch_layout, row_length
from nemo_srlm.train.layout import check_batches
from nemo_srlm.train.megatron import checkpoint, fp8_weights, optim, setup, user_buffers
from nemo_srlm.train.megatron.model import build_model, initialize_weights
from nemo_srlm.train.stop_conditions import NO_LIMITS, Limits


class Progress(Protocol):
    """Where rank 0 reports its progress: core.progress in a run. The trainer knows no stage."""

    def update(self, done: float, total: float, unit: str = "items", **info: float | str) -> None: ...


@dataclass(frozen=True)
class Job:
    """One training. `initial` is the checkpoint/ directory of a finished stage, None for random weights."""

    name: str  # of the stage, for messages
    model: ModelSection
    parallel: ParallelSection
    precision: PrecisionSection
    train: TrainSection
    seed: int
    directory: Path  # of the stage: checkpoint/, metrics.jsonl, logs/
    initial: Path | None
    progress: Progress
    limits: Limits = NO_LIMITS
    projects: Projects = NO_PROJECTS  # trackers beside TensorBoard
    keep_every: int = 0  # steps between the weights that are kept beside the final ones, for the stage select; 0 = none

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoint"


@dataclass(frozen=True)
class Trainer:
    """The live objects of a training process."""

    job: Job
    chunks: list[Any]  # this rank's model chunks, wrapped for data parallelism
    optimizer: Any
    device: torch.device
    layout: BatchLayout


def start(job: Job) -> Trainer:
    """Process groups, model and optimizer; weights from `job.initial` or drawn by the seed.

    Raises ConfigError or CheckpointError.
    """
    device = setup.initialize(job.model, job.parallel, job.precision)
    check_batches(job.name, job.train, job.parallel)
    layout = batch_layout(job.train, job.parallel, job.precision)
    if job.parallel.tp_comm_overlap:
        user_buffers.start(job.model, job.parallel, job.precision, row_length([[layout.budget]], layout))
    chunks = build_model(job.model, job.parallel, job.precision, job.train.dropout)
    if job.initial is None:
        initialize_weights(chunks, job.model, job.seed)
    else:
        checkpoint.load_model(job.initial, chunks)
    wrapped = optim.wrap(chunks, job.parallel, job.precision)
    if not job.precision.fp8_param_gather:  # a broadcast knows no FP8 weights; every replica has read the same ones
        for chunk in wrapped:
            chunk.broadcast_params()
    optimizer = optim.build_optimizer(wrapped, job.train, job.parallel, job.precision)
    fp8_weights.forget(chunks)
    gc.collect()
    gc.freeze()  # a save collects garbage; without this it visits every object that the imports made
    return Trainer(job, wrapped, optimizer, device.device, layout)
