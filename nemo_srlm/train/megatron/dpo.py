"""DPO and its relatives: the task with the cached reference, and the check of the first loss. Shape: R pairs."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from nemo_srlm.config.training import DpoSection, PrecisionSection
from nemo_srlm.data.chat import Document
from nemo_srlm.errors import DataError, UserError
from nemo_srlm.train import losses
from nemo_srlm.train.batches import Unit, index_at, total_steps
from nemo_srlm.train.layout import check_shared_prefix
from nemo_srlm.train.losses import Loss
from nemo_srlm.train.megatron import accelerator, ranks, reference
from nemo_srlm.train.megatron.evaluation import step_pass
from nemo_srlm.train.megatron.job import Trainer
from nemo_srlm.train.megatron.reduction import micro_batch_loss, reduce_metrics
from nemo_srlm.train.megatron.reference import Pair, Reference, Training, document_sums
from nemo_srlm.train.megatron.step import LocalBatch
from nemo_srlm.train.megatron.tasks import Task
from nemo_srlm.train.megatron.trainer import fit

CHECKED_STEPS = 8
# Same rows, same rounding: within 1.1e-5 of ln 2 in bf16 and the FP8 recipes of an H100. FP8 has some room for delayed scaling,
# whose scales follow the passes before; a tensorwise reference of other rows, up to 3.3e-2 off, must not pass.
ROUNDING = {"fp32": 1.0, "bf16": 1.0, "fp8": 5.0}


def fit_dpo(
    trainer: Trainer, pairs: Sequence[Pair], replay: Sequence[Document], section: DpoSection,
    validation: Sequence[Pair] = (), other: Path | None = None,
) -> None:  # fmt: skip
    """Trains on preference pairs from the trainer's weights, which are the reference too if the loss needs one.

    other: the checkpoint/ directory of another policy, which is the reference then; there is no first loss to check.
    Raises what `fit` raises, and UserError when the first loss is not the one of equal policy and reference, ConfigError
    where rows with shared prefixes are asked for and cannot be had.
    """
    if section.shared_prefix:
        check_shared_prefix(packed=trainer.layout.packed, transformer_engine=accelerator.has_transformer_engine())
        trainer = dataclasses.replace(trainer, layout=dataclasses.replace(trainer.layout, shared=True))
    if section.replay_weight and not replay:
        raise DataError("dpo.replay_weight", f"{section.replay_weight} without EFT examples", "EFT examples to replay")
    seed, num = trainer.job.seed, len(pairs)
    known = None
    if losses.PREFERENCES[section.loss].needs_reference:
        training = Training(
            pairs, dpo_task(pairs, replay, None, section, seed).unit_at, lambda p: index_at(p, num, seed)
        )
        known = reference.load_or_compute(trainer, training, validation, other)
    task = dpo_task(pairs, replay, known, section, seed)
    validation_task = dpo_task(validation, (), known, section, seed, shuffled=False) if validation else None
    check = None if other else functools.partial(check_first_loss, trainer, task, section)
    fit(trainer, task, validation_task, check)


def dpo_task(
    pairs: Sequence[Pair], replay: Sequence[Document], known: Reference | None, section: DpoSection, seed: int,
    shuffled: bool = True,
) -> Task:  # fmt: skip
    """A unit is (chosen, rejected) or (chosen, rejected, replayed example): its documents stay in one micro-batch.

    `known` is the reference, None for a loss that needs none. There is one replayed example per pair, so every term
    of the loss counts pairs and any split of a batch gives the same gradient.
    """
    num, width = len(pairs), 3 if replay and section.replay_weight else 2
    logps_R2 = None if known is None else known.of(pairs)
    weighted, uncertain = any(pair.weight != 1.0 for pair in pairs), any(pair.certainty != 1.0 for pair in pairs)

    def index(position: int) -> int:
        return index_at(position, num, seed) if shuffled else position

    def unit_at(position: int) -> Unit:
        pair = pairs[index(position)]
        if width == 2:
            return pair.chosen, pair.rejected
        return pair.chosen, pair.rejected, replay[index_at(position, len(replay), seed + 1)]

    def loss(nll_BS: Tensor, batch: LocalBatch) -> Loss:
        sums_N = document_sums(nll_BS * batch.weights_BS, batch)
        lengths_N = document_sums(batch.weights_BS, batch)
        num_pairs = batch.num_documents // width
        sums_RW, lengths_RW = sums_N.view(num_pairs, width), lengths_N.view(num_pairs, width)
        of_reference = None
        if logps_R2 is not None:
            rows_R2 = torch.from_numpy(logps_R2[[index(p) for p in batch.positions]]).to(sums_N)
            of_reference = rows_R2[:, 0], rows_R2[:, 1]
        mine = [pairs[index(p)] for p in batch.positions]
        found = losses.dpo(
            -sums_RW[:, 0], -sums_RW[:, 1], lengths_RW[:, 0], lengths_RW[:, 1], section, of_reference,
            replay_nll_R=sums_RW[:, 2] / lengths_RW[:, 2] if width == 3 else None,
            weights_R=sums_RW.new_tensor([pair.weight for pair in mine]) if weighted else None,
            certainty_R=sums_RW.new_tensor([pair.certainty for pair in mine]) if uncertain else None,
        )  # fmt: skip
        if ranks.is_first_context_rank():
            return found
        # every context-parallel rank computes the same loss, for the gradient of its tokens; only the first counts it
        zero = torch.zeros_like(found.count)
        return Loss(found.total, zero, dict.fromkeys(found.metrics, (zero, zero)))

    return Task(unit_at, num, loss, losses.DPO_METRICS)


def check_first_loss(trainer: Trainer, task: Task, section: DpoSection) -> None:
    """Raises UserError unless steps of the first epoch, dropout off, have the loss of equal policy and reference.

    Up to CHECKED_STEPS of them, evenly spread. A loss without such a value (a reference-free one) is not checked.
    """
    first_loss = losses.PREFERENCES[section.loss].first_loss
    if first_loss is None:
        return
    job = trainer.job
    epoch = math.ceil(task.num_units / job.train.global_batch)
    collected = [
        found for number in spread(min(epoch, total_steps(job.train, task.num_units)), CHECKED_STEPS)
        for found in step_pass(trainer, task.unit_at, number, micro_batch_loss(task))
    ]  # fmt: skip
    values, _ = reduce_metrics(task, collected, (), trainer.device)
    value, wanted, allowed = values["dpo_loss"], first_loss(section), tolerance(section, job.precision)
    if not abs(value - wanted) <= allowed * max(1.0, wanted):
        path = job.directory / reference.REFERENCE
        raise UserError(
            f"{job.name}, first loss of {section.loss}", f"{value:.6f}",
            f"{wanted:.6f} within {allowed:g}, as long as policy and reference are equal",
            f"the reference is not the policy: remove {path} if the weights were changed",
        )  # fmt: skip


def spread(num: int, most: int) -> list[int]:
    """At most `most` of 0 .. num - 1, evenly spread, the first and the last among them."""
    if num <= most:
        return list(range(num))
    return [i * (num - 1) // (most - 1) for i in range(most)]


def tolerance(section: DpoSection, precision: PrecisionSection) -> float:
    """dpo.ln2_tolerance, which is for fp32, in the precision of the training."""
    return section.ln2_tolerance * ROUNDING["fp8" if precision.fp8 != "none" else precision.dtype]
