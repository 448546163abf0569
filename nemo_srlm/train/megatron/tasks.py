"""Owns what the training loop is given: the SFT and pretraining task, and DPO with its cached reference and first-loss gate."""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from nemo_srlm.data.chat import Document
from nemo_srlm.errors import DataError, UserError
from nemo_srlm.train import losses
from nemo_srlm.train.batches import Unit, index_at
from nemo_srlm.train.losses import DpoSettings, Loss
from nemo_srlm.train.megatron import step
from nemo_srlm.train.megatron.step import LocalBatch
from nemo_srlm.train.megatron.trainer import Task, Trainer, counts_metrics, evaluate, fit, forward_only

REFERENCE = "reference.npz"
Logps = npt.NDArray[np.float64]


def sft_task(documents: Sequence[Document], seed: int, smallest_weight: float = 1.0, shuffled: bool = True) -> Task:
    """Next-token loss on weighted tokens. `smallest_weight`: a loss weight that is not whole (pretraining questions)."""
    num = len(documents)

    def unit_at(position: int) -> Unit:
        return (documents[index_at(position, num, seed) if shuffled else position],)

    def loss(nll_BS: Tensor, batch: LocalBatch) -> Loss:
        return losses.sft(nll_BS, batch.weights_BS)

    scale = Fraction(smallest_weight).limit_denominator(1000).denominator
    return Task(unit_at, num, loss, losses.SFT_METRICS, count_scale=scale)


def fit_dpo(
    trainer: Trainer, pairs: Sequence[tuple[str, Document, Document]], replay: Sequence[Document],
    settings: DpoSettings, ln2_tolerance: float, validation: Sequence[tuple[str, Document, Document]] = (),
) -> None:  # fmt: skip
    """DPO from the trainer's weights, which are the reference too. `pairs` are (id, chosen, rejected).

    The reference log-probabilities are computed once, before the first step, by a forward pass of the same code, and
    kept in reference.npz. Raises UserError when the first loss is not ln 2 (ipo: 1 / 4 beta^2) within `ln2_tolerance`.
    """
    seed, path = trainer.job.seed, trainer.job.directory / REFERENCE
    everything = [*pairs, *validation]
    if settings.replay_weight and not replay:
        raise DataError("dpo.replay_weight", f"{settings.replay_weight} without EFT examples", "EFT examples to replay")
    reference = load_reference(path, [p[0] for p in everything])
    if reference is None:
        reference = reference_logps(trainer, [(c, r) for _, c, r in everything])
        save_reference(path, [p[0] for p in everything], reference)
    offset = len(pairs)
    task = dpo_task([(c, r) for _, c, r in pairs], replay, reference[:offset], settings, seed)
    held_out = None
    if validation:
        held_out = dpo_task([(c, r) for _, c, r in validation], (), reference[offset:], settings, seed, shuffled=False)

    def gate() -> None:
        check_first_loss(trainer, task, settings, ln2_tolerance)

    fit(trainer, task, held_out, fresh=gate)


def dpo_task(
    pairs: Sequence[tuple[Document, Document]], replay: Sequence[Document], reference: Logps,
    settings: DpoSettings, seed: int, shuffled: bool = True,
) -> Task:  # fmt: skip
    """A unit is (chosen, rejected) or (chosen, rejected, replayed example): what belongs together is never split.

    One replayed example a pair, so every term of the loss counts pairs and any split of the batch is exact.
    """
    num, width = len(pairs), 3 if replay and settings.replay_weight else 2

    def index(position: int) -> int:
        return index_at(position, num, seed) if shuffled else position

    def unit_at(position: int) -> Unit:
        pair = pairs[index(position)]
        return pair if width == 2 else (*pair, replay[index_at(position, len(replay), seed + 1)])

    def loss(nll_BS: Tensor, batch: LocalBatch) -> Loss:
        sums_N = document_sums(nll_BS * batch.weights_BS, batch)
        lengths_N = document_sums(batch.weights_BS, batch)
        num_pairs = batch.num_documents // width
        sums_RW, lengths_RW = sums_N.view(num_pairs, width), lengths_N.view(num_pairs, width)
        rows = torch.from_numpy(reference[[index(p) for p in batch.positions]]).to(sums_N)
        found = losses.dpo(
            -sums_RW[:, 0], -sums_RW[:, 1], rows[:, 0], rows[:, 1], lengths_RW[:, 0], lengths_RW[:, 1], settings,
            replay_nll_R=sums_RW[:, 2] / lengths_RW[:, 2] if width == 3 else None,
        )  # fmt: skip
        if step.is_first_context_rank():
            return found
        # every context-parallel rank computes the same loss for the gradient of its tokens; one of them counts it
        zero = torch.zeros_like(found.count)
        return Loss(found.total, zero, dict.fromkeys(found.metrics, (zero, zero)))

    return Task(unit_at, num, loss, losses.DPO_METRICS)


def document_sums(values_BS: Tensor, batch: LocalBatch) -> Tensor:
    """[N] sums over each document, over the context-parallel group."""
    sums_N = losses.sequence_sums(values_BS, batch.segments_BS, batch.num_documents)
    return step.over_context(sums_N)


# --- the reference -------------------------------------------------------------------------------------------------


def reference_logps(trainer: Trainer, pairs: Sequence[tuple[Document, Document]]) -> Logps:
    """[R, 2] summed log-probabilities of chosen and rejected under the trainer's weights, dropout off, on every rank."""

    def collect(nll_BS: Tensor, batch: LocalBatch) -> tuple[Tensor, Tensor, tuple[tuple[int, ...], list[list[float]]]]:
        sums_N = document_sums(nll_BS * batch.weights_BS, batch)
        values = (-sums_N).view(batch.num_documents // 2, 2).double().cpu().tolist()
        return sums_N.sum(), torch.tensor(1, dtype=torch.int, device=nll_BS.device), (batch.positions, values)

    collected = forward_only(trainer, list(pairs), collect)
    mine = collected if counts_metrics() and step.is_first_context_rank() else []
    gathered: list[list[tuple[tuple[int, ...], list[list[float]]]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, mine)
    logps = np.full((len(pairs), 2), np.nan)
    for batches in gathered:
        for positions, values in batches:
            logps[list(positions)] = values
    assert np.isfinite(logps).all(), "a pair without reference log-probabilities"
    return logps


def save_reference(path: Path, ids: Sequence[str], logps: Logps) -> None:
    if dist.get_rank() == 0:
        temporary = path.with_name(f".{path.name}.tmp.npz")
        np.savez(temporary, ids=np.array(ids), logps=logps)
        temporary.replace(path)
    dist.barrier()


def load_reference(path: Path, ids: Sequence[str]) -> Logps | None:
    """The stored log-probabilities, None when there are none yet. Raises DataError unless they are of these pairs."""
    if not path.exists():
        return None
    remedy = f"remove {path} and the checkpoints beside it to compute it again"
    try:
        with np.load(path) as stored:
            found, logps = [str(i) for i in stored["ids"]], np.asarray(stored["logps"], np.float64)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(path, f"unreadable ({error})", "reference log-probabilities of every pair", remedy) from error
    if found != list(ids) or logps.shape != (len(ids), 2) or not np.isfinite(logps).all():
        raise DataError(
            path, f"log-probabilities of {len(found)} other pairs", f"those of the {len(ids)} pairs here", remedy
        )
    return logps


def check_first_loss(trainer: Trainer, task: Task, settings: DpoSettings, tolerance: float) -> None:
    """Policy and reference are the same weights now: on the first batch, dropout off, the loss must say so."""
    first = Task(task.unit_at, min(task.num_units, trainer.job.train.global_batch), task.loss, task.metrics)
    value, wanted = evaluate(trainer, first)["dpo_loss"], settings.first_loss()
    if not abs(value - wanted) <= tolerance * max(1.0, wanted):
        name = "ln 2" if settings.loss == "sigmoid" else "1 / (4 beta^2)"
        raise UserError(
            f"{trainer.job.name}, first loss", f"{value:.6f}", f"{name} = {wanted:.6f} within {tolerance}",
            f"the reference is not the policy: remove {trainer.job.directory / REFERENCE} if the weights were changed",
        )  # fmt: skip
    assert math.isfinite(value)
