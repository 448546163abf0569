"""The one training loop of pretrain, SFT and DPO: steps, validation, checkpoints, stopping before the end."""

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

from nemo_srlm.core.control import stop_file
from nemo_srlm.errors import UserError
from nemo_srlm.train import schedule
from nemo_srlm.train.batches import total_steps
from nemo_srlm.train.checkpoint_dir import is_finished, weights_name
from nemo_srlm.train.megatron import checkpoint, cuda_graphs, optim, ranks, setup, step
from nemo_srlm.train.megatron.best import BestWeights
from nemo_srlm.train.megatron.evaluation import evaluate, training_batches
from nemo_srlm.train.megatron.job import Job, Trainer
from nemo_srlm.train.megatron.reduction import micro_batch_loss, reduce_metrics
from nemo_srlm.train.megatron.saving import Saver
from nemo_srlm.train.megatron.step_log import StepLog, StepResult
from nemo_srlm.train.megatron.tasks import Task
from nemo_srlm.train.stop_conditions import StopConditions


class Stopped(Exception):
    """Training was asked to stop, has saved and is not finished: run it again. `reason`: "" where another rank was asked."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def fit(
    trainer: Trainer, task: Task, validation: Task | None = None, before_first_step: Callable[[], None] | None = None
) -> None:
    """Trains to the end and writes checkpoint/final; resumes where an earlier attempt saved.

    `before_first_step` runs unless it resumes. Raises Stopped after saving when asked to stop, UserError when the loss
    or the gradient is not finite, ConfigError when the learning rate is 0 in its only step.
    """
    job, section = trainer.job, trainer.job.train
    if ranks.of_main(lambda: is_finished(job.checkpoints)):
        checkpoint.drop_training(job.checkpoints)  # the attempt that finished may have ended while it removed them
        return
    steps = total_steps(section, task.num_units)
    schedule.check_rate(job.name, section, steps)
    first = checkpoint.load_training(job.checkpoints, trainer.chunks, trainer.optimizer)
    if first == 0 and ranks.is_main():
        schedule.warn(job.name, section, steps)
    if first == 0 and before_first_step is not None:
        before_first_step()
    scheduler = optim.build_scheduler(trainer.optimizer, section, steps)
    scheduler.step(first)
    saver = Saver(job.checkpoints, section.keep_last, section.save_async)
    best = BestWeights(job.checkpoints, saver) if section.keep_best and validation is not None else None
    limits = dataclasses.replace(job.limits, files=(stop_file(job.directory), *job.limits.files))

    def validate(done: int) -> None:
        if validation is not None:
            values = evaluate(trainer, validation)
            log.validation(done, values)
            if best is not None:
                best.update(done, values["loss"], trainer.chunks, trainer.optimizer)

    longest = 0.0  # seconds of a step with all that follows it
    with closing(StepLog(job, task, first, steps)) as log:
        with StopConditions(limits) as stop:
            for number in range(first, steps):
                began = time.perf_counter()
                if number == first + cuda_graphs.WARMUP and job.precision.cuda_graphs != "none":
                    cuda_graphs.record(trainer)
                result = train_step(trainer, task, scheduler, number, partial(stop.reason, longest))
                done = result.done
                log.step(result)
                # a training resumed from this step's checkpoint does not repeat these writes, so they come before it
                if _due(section.validate_every, done, steps):
                    validate(done)
                saver.poll()
                if _due(job.keep_every, done, steps):
                    saver.save_weights(trainer.chunks, trainer.optimizer, weights_name(done))
                if result.stop and done < steps:
                    saver.save(done, trainer.chunks, trainer.optimizer)
                    saver.finish()
                    raise Stopped(stop_message(job, result, steps), result.reason)
                if _due(section.save_every, done, steps):
                    saver.save(done, trainer.chunks, trainer.optimizer)
                longest = max(longest, time.perf_counter() - began)
        validate(steps)
        saver.finish()
    if best is None:
        saver.save_weights(trainer.chunks, trainer.optimizer)
    else:
        best.finalize()
    checkpoint.drop_training(job.checkpoints)


def train_step(
    trainer: Trainer, task: Task, scheduler: Any, number: int, stop_reason: Callable[[], str]
) -> StepResult:  # fmt: skip
    """Step `number` (from 0): forward, backward, one reduction of metrics, optimizer. Ranks agree on all but `reason`."""
    job = trainer.job
    began = time.perf_counter()
    setup.seed_everything(job.seed, number)
    batches = training_batches(trainer, task.unit_at, number)
    for chunk in trainer.chunks:
        chunk.zero_grad_buffer()
    trainer.optimizer.zero_grad()
    scheduler.step(1)  # before the update: the rate of step k is the schedule's at k + 1, so no step has rate 0
    collected = step.run_schedule(trainer.chunks, batches, micro_batch_loss(task), trainer.device, forward_only=False)
    reason = stop_reason()
    counts = ranks.holds_metrics() and ranks.is_first_context_rank()
    sizes = [(b.num_tokens, b.tokens_BS.size, b.squared_lengths, b.num_targets) for b in batches] if counts else []
    mine = [sum(column) for column in zip(*sizes, strict=True)] if sizes else [0, 0, 0, 0]
    values, (tokens, positions, squares, targets, stops) = reduce_metrics(
        task, collected, (*mine, bool(reason)), trainer.device
    )
    norm = optim.gradient_norm(trainer.optimizer)
    _require_finite(job, number, values["loss"], norm)
    optim.clip_and_step(trainer.optimizer, norm)
    return StepResult(
        done=number + 1, values=values, lr=float(trainer.optimizer.param_groups[0]["lr"]), grad_norm=norm,
        tokens=tokens, positions=positions, squared_lengths=squares, targets=targets,
        seconds=time.perf_counter() - began, stop=stops > 0, reason=reason,
    )  # fmt: skip


def stop_message(job: Job, result: StepResult, steps: int) -> str:
    words = f" ({result.reason})" if result.reason else ""
    return f"{job.name}: stopped after step {result.done} of {steps}; saved{words}"


def _due(every: int, done: int, steps: int) -> bool:
    """Whether something that happens every `every` steps (0: never) is due; the last step has its own rules."""
    return every > 0 and done % every == 0 and done < steps


def _require_finite(job: Job, number: int, loss: float, norm: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise UserError(
            f"{job.name}, step {number + 1}", f"loss {loss}, gradient norm {norm}", "finite numbers",
            f"lower {job.name}.lr or look at the data; the last checkpoint is untouched",
        )  # fmt: skip
