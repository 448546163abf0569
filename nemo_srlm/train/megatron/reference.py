"""The reference's log-probabilities of preference pairs: computed once, before the first step, and stored in reference.npz.

In bf16 and FP8 a document's log-probability depends on the row that it is computed in. So the reference sees the very rows
of the training steps, and reference.npz says which settings decide them: under others it is computed again.
"""

import dataclasses
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from nemo_srlm.core.terminal import say
from nemo_srlm.data.chat import Document
from nemo_srlm.errors import DataError
from nemo_srlm.train import losses
from nemo_srlm.train.batches import Unit
from nemo_srlm.train.layout import data_parallel_size
from nemo_srlm.train.megatron import checkpoint, ranks, step
from nemo_srlm.train.megatron.evaluation import forward_pass, step_pass
from nemo_srlm.train.megatron.job import Trainer
from nemo_srlm.train.megatron.step import LocalBatch

REFERENCE = "reference.npz"  # in the stage's directory
Logps = npt.NDArray[np.float64]  # [R, 2] summed log-probabilities of chosen and rejected


class Pair(NamedTuple):
    """A preference pair as documents; `weight` and `certainty` as in core.records.PreferencePair."""

    id: str
    chosen: Document
    rejected: Document
    weight: float = 1.0
    certainty: float = 1.0


@dataclass(frozen=True)
class Reference:
    """Log-probabilities of pairs, and the rows in which they were computed."""

    ids: Sequence[str]
    logps_R2: Logps
    rows: str

    def of(self, pairs: Sequence[Pair]) -> Logps:
        """[R, 2] of these pairs, in their order. Raises DataError when one is missing."""
        place = {name: i for i, name in enumerate(self.ids)}
        missing = [pair.id for pair in pairs if pair.id not in place]
        if missing:
            raise DataError(
                REFERENCE, f"no log-probabilities of {len(missing)} pairs, such as {missing[0]}", "all pairs"
            )
        found: Logps = self.logps_R2[[place[pair.id] for pair in pairs]]
        return found


@dataclass(frozen=True)
class Training:
    """The pairs of the training steps: `unit_at` and `index` map a position of their stream to its unit and its pair."""

    pairs: Sequence[Pair]
    unit_at: Callable[[int], Unit]
    index: Callable[[int], int]


def load_or_compute(
    trainer: Trainer, training: Training, validation: Sequence[Pair], other: Path | None = None
) -> Reference:
    """The stored reference of these pairs; the one under the trainer's weights, which is then stored, if there is none.

    Also if the stored one was computed in other rows than those of this job's steps. other: a checkpoint/ directory whose
    weights are the reference; the trainer has its own again afterwards.
    """
    path, ids = trainer.job.directory / REFERENCE, [pair.id for pair in (*training.pairs, *validation)]
    rows, there = row_settings(trainer), ranks.of_main(path.exists)
    found = load(path, ids) if there else None
    if there and found is None:
        raise DataError(
            path, "seen by rank 0 and not by this one", "one file system on all nodes", "try again in a minute"
        )
    if found is not None and found.rows == rows:
        return found
    if found is not None and ranks.is_main():
        say(f"{path}: computed in other rows ({found.rows or 'unknown'}); now {rows}: computed again", error=True)
    if other is not None:
        checkpoint.load_model(other, trainer.chunks)
    logps = np.concatenate([_of_steps(trainer, training), _of_validation(trainer, validation)])
    if other is not None:
        assert trainer.job.initial is not None, "a policy that starts from random weights is no later iteration"
        checkpoint.load_model(trainer.job.initial, trainer.chunks)
    made = Reference(ids, logps, rows)
    save(path, made)
    return made


def row_settings(trainer: Trainer) -> str:
    """The settings that decide which documents share a row, its length, and how its sums are rounded, as JSON."""
    job = trainer.job
    settings = dataclasses.asdict(trainer.layout) | {"replicas": data_parallel_size(job.parallel)}
    settings |= {} if trainer.layout.budget else {"micro_batch": job.train.micro_batch}
    p, precision = job.parallel, job.precision
    rounding = {
        "tensor": p.tensor, "sequence": p.sequence, "context": p.context, "cross_entropy": precision.cross_entropy,
    }  # fmt: skip
    # left out, as in the files of trainings that were begun before these were recorded
    defaults = {"shared": False, "tensor": 1, "sequence": False, "context": 1, "cross_entropy": "unfused"}
    return json.dumps({k: v for k, v in (settings | rounding).items() if k not in defaults or v != defaults[k]})


def document_sums(values_BS: Tensor, batch: LocalBatch) -> Tensor:
    """[N] sums over each document, over the context-parallel group too."""
    sums_N = losses.sequence_sums(values_BS, batch.segments_BS, batch.num_documents)
    return step.over_context(sums_N)


Collected = tuple[tuple[int, ...], list[list[float]]]  # positions of a micro-batch's units, log-probabilities of each


def _collect(nll_BS: Tensor, batch: LocalBatch) -> tuple[Tensor, Tensor, Collected]:
    sums_N = document_sums(nll_BS * batch.weights_BS, batch)
    width = batch.num_documents // max(1, len(batch.positions))  # chosen, rejected and, with replay, its example
    values = (-sums_N).view(len(batch.positions), width)[:, :2].double().cpu().tolist() if batch.positions else []
    return sums_N.sum(), torch.tensor(1, dtype=torch.int, device=nll_BS.device), (batch.positions, values)


def _of_steps(trainer: Trainer, training: Training) -> Logps:
    """[R, 2] under the trainer's weights, dropout off, in the rows of the first epoch's steps."""
    num = len(training.pairs)
    collected: list[Collected] = []
    for number in range(math.ceil(num / trainer.job.train.global_batch)):
        collected += step_pass(trainer, training.unit_at, number, _collect)
    # the last step is filled up with units of the next epoch, whose pairs have their values from this one
    pairs = (
        (training.index(p), value) for positions, values in collected
        for p, value in zip(positions, values, strict=True) if p < num
    )  # fmt: skip
    return _on_every_rank(pairs, num)


def _of_validation(trainer: Trainer, pairs: Sequence[Pair]) -> Logps:
    """[R, 2] under the trainer's weights, in the rows in which the validation loss is computed."""
    collected: list[Collected] = forward_pass(trainer, [(pair.chosen, pair.rejected) for pair in pairs], _collect)
    return _on_every_rank(((p, v) for ps, vs in collected for p, v in zip(ps, vs, strict=True)), len(pairs))


def _on_every_rank(mine: Iterable[tuple[int, list[float]]], num: int) -> Logps:
    """[num, 2] of the values that the ranks have between them, with their indices."""
    gathered: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, list(mine) if ranks.holds_metrics() and ranks.is_first_context_rank() else [])
    logps = np.full((num, 2), np.nan)
    for rank in gathered:
        for index, values in rank:
            logps[index] = values
    assert np.isfinite(logps).all(), "a pair without reference log-probabilities"
    return logps


def save(path: Path, made: Reference) -> None:
    if dist.get_rank() == 0:
        temporary = path.with_name(f".{path.name}.tmp.npz")
        np.savez(temporary, ids=np.array(made.ids), logps=made.logps_R2, rows=np.array(made.rows))
        temporary.replace(path)
    dist.barrier()


def load(path: Path, ids: Sequence[str]) -> Reference | None:
    """The stored reference, None if there is no file. Raises DataError unless it is that of these pairs."""
    if not path.exists():
        return None
    remedy = f"remove {path} and the checkpoints beside it to compute it again"
    try:
        with np.load(path) as stored:
            found, logps = [str(i) for i in stored["ids"]], np.asarray(stored["logps"], np.float64)
            rows = str(stored["rows"]) if "rows" in stored else ""  # files of 0.1 do not say
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:  # BadZipFile: cut short
        raise DataError(path, f"unreadable ({error})", "reference log-probabilities of every pair", remedy) from error
    if found != list(ids) or logps.shape != (len(ids), 2) or not np.isfinite(logps).all():
        raise DataError(
            path, f"log-probabilities of {len(found)} other pairs", f"those of the {len(ids)} pairs here", remedy
        )
    return Reference(found, logps, rows)
