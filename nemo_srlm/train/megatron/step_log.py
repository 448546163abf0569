"""What rank 0 reports of a training: metrics.jsonl, trackers, progress, speed and utilisation. Other ranks report nothing."""

from dataclasses import dataclass

import torch

from nemo_srlm.core.trackers import open_trackers
from nemo_srlm.train import estimate
from nemo_srlm.train.layout import world_size
from nemo_srlm.train.megatron import ranks
from nemo_srlm.train.megatron.job import Job
from nemo_srlm.train.megatron.tasks import Task
from nemo_srlm.train.metrics import METRICS, MetricsLog, rounded


@dataclass(frozen=True)
class StepResult:
    """A training step as all ranks know it after their reduction."""

    done: int  # steps, with this one
    values: dict[str, float]  # metrics of the task
    lr: float
    grad_norm: float  # before clipping
    tokens: float  # of all replicas, without padding
    positions: float  # of all replicas: tokens and padding
    squared_lengths: float  # sum over documents
    targets: float  # positions that have a loss
    seconds: float
    stop: bool  # whether a rank has a reason to stop
    reason: str  # this rank's, "" if it has none


class StepLog:
    """Make one when the step to resume from is known; `close` it at the end of the attempt."""

    def __init__(self, job: Job, task: Task, first_step: int, steps: int) -> None:
        self._job, self._task, self._steps = job, task, steps
        self._log: MetricsLog | None = None
        if ranks.is_main():
            trackers = open_trackers(job.directory, job.projects, first_step)
            self._log = MetricsLog(job.directory / METRICS, first_step, trackers)

    def step(self, result: StepResult) -> None:
        if self._log is None:
            return
        speed = result.tokens / result.seconds
        if result.done % self._job.train.log_every == 0 or result.done == self._steps:
            self._log.write({
                "step": result.done, **rounded(result.values), "lr": result.lr,
                "grad_norm": float(f"{result.grad_norm:.6g}"), "tokens": int(result.tokens),
                "useful": round(result.tokens / result.positions, 4),
                "seconds": round(result.seconds, 4), "tokens_per_s": round(speed, 1), **utilisation(self._job, result),
                "per": dict(self._task.metrics),
            })  # fmt: skip
        loss = round(result.values["loss"], 4)
        self._job.progress.update(result.done, self._steps, "steps", loss=loss, tokens_per_s=round(speed))

    def validation(self, done: int, values: dict[str, float]) -> None:
        """Metrics of the validation examples after `done` steps."""
        if self._log is not None:
            self._log.write({"step": done, "validation": rounded(values), "per": dict(self._task.metrics)})

    def close(self) -> None:
        if self._log is not None:
            self._log.close()


def utilisation(job: Job, result: StepResult) -> dict[str, float]:
    """Model TFLOP/s per GPU and their share of its peak (MFU); {} where no peak is known (a CPU, an unknown GPU)."""
    gpu = estimate.gpu_of(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    peak = job.parallel.peak_tflops or (gpu.peak(job.precision) if gpu else 0.0)
    if not peak:
        return {}
    flops = estimate.training_flops(job.model, result.tokens, result.squared_lengths, result.targets)
    tflops = flops / result.seconds / world_size(job.parallel) / 1e12
    return {"tflops": float(f"{tflops:.5g}"), "mfu": float(f"{tflops / peak:.4g}")}
