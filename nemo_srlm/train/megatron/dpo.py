"""DPO and its relatives: the task with the cached reference, and the check of the first loss. Shape: R pairs."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from nemo_srlm.config.training import DpoSection
from nemo_srlm.data.chat import Document
from nemo_srlm.errors import DataError, UserError
from nemo_srlm.train import losses
from nemo_srlm.train.batches import Unit, index_at
from nemo_srlm.train.losses import Loss
from nemo_srlm.train.megatron import ranks, reference
from nemo_srlm.train.megatron.evaluation import evaluate
from nemo_srlm.train.megatron.job import Trainer
from nemo_srlm.train.megatron.reference import Logps, Pair, document_sums
from nemo_srlm.train.megatron.step import LocalBatch
from nemo_srlm.train.megatron.tasks import Task
from nemo_srlm.train.megatron.trainer import fit


def fit_dpo(
    trainer: Trainer, pairs: Sequence[Pair], replay: Sequence[Document], section: DpoSection,
    validation: Sequence[Pair] = (),
) -> None:  # fmt: skip
    """Trains on preference pairs from the trainer's weights, which are the reference too if the loss needs one.

    Raises what `fit` raises, and UserError when the first loss is not the one of equal policy and reference.
    """
    if section.replay_weight and not replay:
        raise DataError("dpo.replay_weight", f"{section.replay_weight} without EFT examples", "EFT examples to replay")
    seed, num = trainer.job.seed, len(pairs)
    fitted = held_out = None
    if losses.PREFERENCES[section.loss].needs_reference:
        logps = reference.load_or_compute(trainer, [*pairs, *validation])
        fitted, held_out = logps[:num], logps[num:]
    task = dpo_task(pairs, replay, fitted, section, seed)
    validation_task = dpo_task(validation, (), held_out, section, seed, shuffled=False) if validation else None
    fit(trainer, task, validation_task, functools.partial(check_first_loss, trainer, task, section))


def dpo_task(
    pairs: Sequence[Pair], replay: Sequence[Document], logps: Logps | None, section: DpoSection, seed: int,
    shuffled: bool = True,
) -> Task:  # fmt: skip
    """A unit is (chosen, rejected) or (chosen, rejected, replayed example): its documents stay in one micro-batch.

    `logps` are the reference's, None for a loss that needs none. There is one replayed example per pair, so every term
    of the loss counts pairs and any split of a batch gives the same gradient.
    """
    num, width = len(pairs), 3 if replay and section.replay_weight else 2

    def index(position: int) -> int:
        return index_at(position, num, seed) if shuffled else position

    def unit_at(position: int) -> Unit:
        _, chosen, rejected = pairs[index(position)]
        if width == 2:
            return chosen, rejected
        return chosen, rejected, replay[index_at(position, len(replay), seed + 1)]

    def loss(nll_BS: Tensor, batch: LocalBatch) -> Loss:
        sums_N = document_sums(nll_BS * batch.weights_BS, batch)
        lengths_N = document_sums(batch.weights_BS, batch)
        num_pairs = batch.num_documents // width
        sums_RW, lengths_RW = sums_N.view(num_pairs, width), lengths_N.view(num_pairs, width)
        of_reference = None
        if logps is not None:
            rows_R2 = torch.from_numpy(logps[[index(p) for p in batch.positions]]).to(sums_N)
            of_reference = rows_R2[:, 0], rows_R2[:, 1]
        found = losses.dpo(
            -sums_RW[:, 0], -sums_RW[:, 1], lengths_RW[:, 0], lengths_RW[:, 1], section, of_reference,
            replay_nll_R=sums_RW[:, 2] / lengths_RW[:, 2] if width == 3 else None,
        )  # fmt: skip
        if ranks.is_first_context_rank():
            return found
        # every context-parallel rank computes the same loss, for the gradient of its tokens; only the first counts it
        zero = torch.zeros_like(found.count)
        return Loss(found.total, zero, dict.fromkeys(found.metrics, (zero, zero)))

    return Task(unit_at, num, loss, losses.DPO_METRICS)


def check_first_loss(trainer: Trainer, task: Task, section: DpoSection) -> None:
    """Raises UserError unless the first batch, dropout off, has the loss of equal policy and reference.

    A loss without such a value (a reference-free one) is not checked.
    """
    first_loss = losses.PREFERENCES[section.loss].first_loss
    if first_loss is None:
        return
    first = Task(task.unit_at, min(task.num_units, trainer.job.train.global_batch), task.loss, task.metrics)
    value, wanted = evaluate(trainer, first)["dpo_loss"], first_loss(section)
    if not abs(value - wanted) <= section.ln2_tolerance * max(1.0, wanted):
        path = trainer.job.directory / reference.REFERENCE
        raise UserError(
            f"{trainer.job.name}, first loss of {section.loss}", f"{value:.6f}",
            f"{wanted:.6f} within {section.ln2_tolerance}, as long as policy and reference are equal",
            f"the reference is not the policy: remove {path} if the weights were changed",
        )  # fmt: skip
