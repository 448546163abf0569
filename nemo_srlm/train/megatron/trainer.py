"""Owns the one training loop of pretrain, SFT and DPO: steps, metrics, validation, checkpoints, graceful stop."""

import dataclasses
import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection, TrainSection
from nemo_srlm.core.control import stop_file
from nemo_srlm.errors import UserError
from nemo_srlm.train import estimate
from nemo_srlm.train.batches import BatchLayout, Unit, eval_batches, padding_batch, step_batches
from nemo_srlm.train.checkpoint_dir import FINAL, kept_name, latest
from nemo_srlm.train.layout import check_batches, data_parallel_size, world_size
from nemo_srlm.train.losses import Loss
from nemo_srlm.train.megatron import accelerator, checkpoint, optim, setup, step
from nemo_srlm.train.megatron.best import BestWeights
from nemo_srlm.train.megatron.model import build_model, initialize_weights
from nemo_srlm.train.megatron.saving import Saver
from nemo_srlm.train.megatron.step import LocalBatch
from nemo_srlm.train.metrics import METRICS, MetricsLog, rounded
from nemo_srlm.train.stop_conditions import NO_LIMITS, Limits, StopConditions
from nemo_srlm.train.trackers import Tracker


class Progress(Protocol):
    def update(self, done: float, total: float, unit: str = "items", **info: float | str) -> None: ...


@dataclass(frozen=True)
class Job:
    """What a stage asks for. `initial` is a finished stage's checkpoint/ directory, None for random weights."""

    name: str
    model: ModelSection
    parallel: ParallelSection
    precision: PrecisionSection
    train: TrainSection
    seed: int
    directory: Path
    initial: Path | None
    progress: Progress
    limits: Limits = NO_LIMITS
    project: str = ""  # of Weights & Biases
    keep_every: int = 0  # steps between weights that stay beside the final ones, for the stage select; 0 = none


@dataclass(frozen=True)
class Task:
    """Examples and a loss. `unit_at` maps a position of the endless shuffled stream to the documents of one unit.

    `count_scale`: Megatron adds up counts as integers, so weights must be multiples of 1 / count_scale.
    """

    unit_at: Callable[[int], Unit]
    num_units: int
    loss: Callable[[Tensor, LocalBatch], Loss]
    metrics: Mapping[str, str]  # name -> denominator
    count_scale: int = 1


@dataclass(frozen=True)
class Trainer:
    """The live objects of a training process."""

    job: Job
    chunks: list[Any]
    optimizer: Any
    device: torch.device
    shape: BatchLayout


class Stopped(Exception):
    """Training was asked to stop, has saved and is not finished: run it again."""


def total_steps(section: TrainSection, num_units: int) -> int:
    """max_steps where set, else the epochs in whole global batches (the last one wraps into the next epoch)."""
    return (
        section.max_steps
        if section.max_steps > 0
        else max(1, math.ceil(section.epochs * num_units / section.global_batch))
    )


def start(job: Job) -> Trainer:
    """Processes, model, optimizer; weights from `job.initial` or drawn by the seed. Raises ConfigError, CheckpointError."""
    device = setup.initialize(job.model, job.parallel, job.precision)
    check_batches(job.name, job.train, job.parallel)
    chunks = build_model(job.model, job.parallel, job.precision, job.train.dropout)
    if job.initial is None:
        initialize_weights(chunks, job.model, job.seed)
    else:
        checkpoint.load_model(job.initial, chunks)
    wrapped = optim.wrap(chunks, job.parallel, job.precision)
    for chunk in wrapped:
        chunk.broadcast_params()
    optimizer = optim.build_optimizer(wrapped, job.train, job.parallel, job.precision)
    p = job.parallel
    multiple = (p.tensor if p.sequence else 1) * (16 if job.precision.fp8 != "none" else 1) * p.context
    shape = BatchLayout(
        packed=job.train.packing or p.context > 1, align=2 * p.context if p.context > 1 else 1,
        multiple=multiple, uniform=p.pipeline > 1,
    )  # fmt: skip
    gc.collect()
    gc.freeze()  # a save collects garbage; without this it walks every object that the imports made
    return Trainer(job, wrapped, optimizer, device.device, shape)


def is_main() -> bool:
    return dist.get_rank() == 0


def replica() -> int:
    return int(parallel_state.get_data_parallel_rank())


def counts_metrics() -> bool:
    """Whether this rank's collected metrics count: last pipeline stage, one rank of each tensor-parallel group."""
    return bool(
        parallel_state.is_pipeline_last_stage(ignore_virtual=True)
        and parallel_state.get_tensor_model_parallel_rank() == 0
    )


# --- metrics -------------------------------------------------------------------------------------------------------


def _loss_of(task: Task) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Adapts a task's loss to Megatron: integer count, metrics as one float64 vector of sums and counts."""

    def loss_of(nll_BS: Tensor, batch: LocalBatch) -> tuple[Tensor, Tensor, Tensor]:
        loss = task.loss(nll_BS, batch)
        count = (loss.count * task.count_scale).round().to(torch.int)
        values = torch.stack([torch.stack(loss.metrics[name]).double() for name in task.metrics]).flatten()
        return loss.total * task.count_scale, count, values

    return loss_of


def reduce_metrics(
    task: Task, collected: Sequence[Tensor], extra: Sequence[float], device: torch.device
) -> tuple[dict[str, float], list[float]]:
    """Sums over micro-batches and all ranks: metric values by name, and the summed `extra` numbers."""
    vector = torch.zeros(2 * len(task.metrics) + len(extra), dtype=torch.float64)
    if collected and counts_metrics():
        vector[: 2 * len(task.metrics)] = torch.stack(list(collected)).sum(0).cpu()
    vector[2 * len(task.metrics) :] = torch.tensor(list(extra), dtype=torch.float64)
    vector = vector.to(device)
    dist.all_reduce(vector)
    numbers = vector.tolist()
    values = {
        name: numbers[2 * i] / numbers[2 * i + 1] if numbers[2 * i + 1] else math.nan
        for i, name in enumerate(task.metrics)
    }
    return values, numbers[2 * len(task.metrics) :]


# --- the loop ------------------------------------------------------------------------------------------------------


def fit(trainer: Trainer, task: Task, validation: Task | None = None, fresh: Callable[[], None] | None = None) -> None:
    """Trains to the end and writes checkpoint/final. `fresh` runs before step 0 of a run that does not resume.

    Raises Stopped after saving when asked to stop, UserError when loss or gradient stop being finite.
    """
    job, section = trainer.job, trainer.job.train
    directory = job.directory / "checkpoint"
    if is_finished(job):
        return
    first = checkpoint.load_training(directory, trainer.chunks, trainer.optimizer)
    if first == 0 and fresh is not None:
        fresh()
    steps = total_steps(section, task.num_units)
    scheduler = optim.build_scheduler(trainer.optimizer, section, steps)
    scheduler.step(first)
    replicas = data_parallel_size(job.parallel)
    num_micro = section.global_batch // (replicas * section.micro_batch)
    tracker = Tracker(job.directory, first, job.project) if is_main() else None
    log = MetricsLog(job.directory / METRICS, first, tracker) if tracker else None
    leaving = StopConditions(dataclasses.replace(job.limits, files=(stop_file(job.directory), *job.limits.files)))
    saver = Saver(directory, section.keep_last, section.save_async)
    best = BestWeights(directory, saver) if section.keep_best and validation is not None else None

    def validate(done: int) -> None:
        if validation is None:
            return
        values = evaluate(trainer, validation)
        if log is not None:
            log.write({"step": done, "validation": rounded(values), "per": dict(validation.metrics)})
        if best is not None:  # before any checkpoint of this step, as with keep_every
            best.update(done, values["loss"], trainer.chunks)

    loss_of = _loss_of(task)
    longest = 0.0  # seconds of a step with all that follows it
    try:
        for number in range(first, steps):
            began = time.perf_counter()
            setup.seed_everything(job.seed, number)
            batches = step_batches(
                task.unit_at, number, section.global_batch, replicas, num_micro, replica(), trainer.shape
            )
            for chunk in trainer.chunks:
                chunk.zero_grad_buffer()
            trainer.optimizer.zero_grad()
            scheduler.step(1)  # the rate of step k is the schedule's at k + 1: never a step of rate 0
            collected = step.run_schedule(trainer.chunks, batches, loss_of, trainer.device, forward_only=False)
            work = (sum(b.num_tokens for b in batches), sum(b.squared_lengths for b in batches))
            reason = leaving.reason(longest)
            own = (*(work if _counts_tokens() else (0.0, 0.0)), float(bool(reason)))
            values, (tokens, squares, stops) = reduce_metrics(task, collected, own, trainer.device)
            norm = optim.gradient_norm(trainer.optimizer)
            _require_finite(job, number, values["loss"], norm)
            optim.apply(trainer.optimizer, norm)
            done = number + 1
            seconds = time.perf_counter() - began
            if log is not None:
                lr = float(trainer.optimizer.param_groups[0]["lr"])
                line = {
                    "step": done, **rounded(values), "lr": lr, "grad_norm": float(f"{norm:.6g}"), "tokens": int(tokens),
                    "seconds": round(seconds, 4), "tokens_per_s": round(tokens / seconds, 1),
                    **utilisation(job, tokens, squares, seconds), "per": dict(task.metrics),
                }  # fmt: skip
                if done % section.log_every == 0 or done == steps:
                    log.write(line)
                job.progress.update(
                    done, steps, "steps", loss=round(values["loss"], 4), tokens_per_s=round(tokens / seconds)
                )
            if section.validate_every and done % section.validate_every == 0 and done < steps:
                validate(done)
            saver.poll()
            if job.keep_every and done % job.keep_every == 0 and done < steps:
                # before any checkpoint of this step: what resumes from one must find these weights there already
                saver.save_weights(trainer.chunks, kept_name(done))
            if stops and done < steps:
                saver.save(done, trainer.chunks, trainer.optimizer)
                saver.finish()
                words = f" ({reason})" if reason else ""
                raise Stopped(f"{job.name}: stopped after step {done} of {steps}; saved{words}")
            if section.save_every and done % section.save_every == 0 and done < steps:
                saver.save(done, trainer.chunks, trainer.optimizer)
            longest = max(longest, time.perf_counter() - began)
    except BaseException:
        if log is not None:
            log.close()  # what was trained up to the saved step stays in the trackers too
        raise
    finally:
        leaving.restore()
    validate(steps)
    saver.finish()
    if log is not None:
        log.close()
    if best is None:
        saver.save_weights(trainer.chunks)
    else:
        best.finalize()
    checkpoint.drop_training(directory)


def is_finished(job: Job) -> bool:
    """Whether an earlier attempt has written the final weights already."""
    found = latest(job.directory / "checkpoint")
    return found is not None and found.name == FINAL


def utilisation(job: Job, tokens: float, squares: float, seconds: float) -> dict[str, float]:
    """Model TFLOP/s of one GPU and their share of its peak; {} where no peak is known (a CPU, an unknown GPU)."""
    gpu = estimate.gpu_of(torch.cuda.get_device_name()) if accelerator.prepare().kind == "cuda" else None
    peak = job.parallel.peak_tflops or (gpu.peak(job.precision) if gpu else 0.0)
    if not peak:
        return {}
    tflops = estimate.training_flops(job.model, tokens, squares) / seconds / world_size(job.parallel) / 1e12
    return {"tflops": float(f"{tflops:.5g}"), "mfu": float(f"{tflops / peak:.4g}")}


def _counts_tokens() -> bool:
    return counts_metrics() and step.is_first_context_rank()


def _require_finite(job: Job, number: int, loss: float, norm: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise UserError(
            f"{job.name}, step {number + 1}", f"loss {loss}, gradient norm {norm}", "finite numbers",
            f"lower {job.name}.lr or look at the data; the last checkpoint is untouched",
        )  # fmt: skip


def forward_only(trainer: Trainer, units: Sequence[Unit], loss_of: step.LossOf) -> list[Any]:
    """A forward-only pass over every unit once, dropout off; what `loss_of` collected on this rank."""
    job = trainer.job
    replicas = data_parallel_size(job.parallel)
    batches = eval_batches(units, job.train.micro_batch, replicas, replica(), trainer.shape)
    if batches and job.parallel.virtual_pipeline > 1:  # the interleaved schedule wants whole rounds of stages
        batches += [padding_batch(batches[-1])] * (-len(batches) % job.parallel.pipeline)
    for chunk in trainer.chunks:
        chunk.eval()
    collected = step.run_schedule(trainer.chunks, batches, loss_of, trainer.device, forward_only=True)
    for chunk in trainer.chunks:
        chunk.train()
    return collected


def evaluate(trainer: Trainer, task: Task) -> dict[str, float]:
    """Metric values over every unit of `task` (positions 0..num_units-1), dropout off."""
    units = [task.unit_at(i) for i in range(task.num_units)]
    values, _ = reduce_metrics(task, forward_only(trainer, units, _loss_of(task)), (), trainer.device)
    return values
