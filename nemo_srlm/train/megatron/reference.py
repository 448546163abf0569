"""The reference's log-probabilities of preference pairs: computed once, before the first step, and stored in reference.npz."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from nemo_srlm.data.chat import Document
from nemo_srlm.errors import DataError
from nemo_srlm.train import losses
from nemo_srlm.train.megatron import ranks, step
from nemo_srlm.train.megatron.evaluation import forward_pass
from nemo_srlm.train.megatron.job import Trainer
from nemo_srlm.train.megatron.step import LocalBatch

REFERENCE = "reference.npz"  # in the stage's directory
Pair = tuple[str, Document, Document]  # id, chosen, rejected
Logps = npt.NDArray[np.float64]  # [R, 2] summed log-probabilities of chosen and rejected


def load_or_compute(trainer: Trainer, pairs: Sequence[Pair]) -> Logps:
    """The stored log-probabilities of these pairs; those under the trainer's weights, which are then stored, if none are."""
    path, ids = trainer.job.directory / REFERENCE, [pair[0] for pair in pairs]
    found = load(path, ids)
    if found is None:
        found = compute(trainer, [pair[1:] for pair in pairs])
        save(path, ids, found)
    return found


def document_sums(values_BS: Tensor, batch: LocalBatch) -> Tensor:
    """[N] sums over each document, over the context-parallel group too."""
    sums_N = losses.sequence_sums(values_BS, batch.segments_BS, batch.num_documents)
    return step.over_context(sums_N)


def compute(trainer: Trainer, pairs: Sequence[tuple[Document, Document]]) -> Logps:
    """Log-probabilities under the trainer's weights, dropout off, on every rank."""

    def collect(nll_BS: Tensor, batch: LocalBatch) -> tuple[Tensor, Tensor, tuple[tuple[int, ...], list[list[float]]]]:
        sums_N = document_sums(nll_BS * batch.weights_BS, batch)
        values = (-sums_N).view(batch.num_documents // 2, 2).double().cpu().tolist()
        return sums_N.sum(), torch.tensor(1, dtype=torch.int, device=nll_BS.device), (batch.positions, values)

    collected = forward_pass(trainer, list(pairs), collect)
    mine = collected if ranks.holds_metrics() and ranks.is_first_context_rank() else []
    gathered: list[list[tuple[tuple[int, ...], list[list[float]]]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, mine)
    logps = np.full((len(pairs), 2), np.nan)
    for batches in gathered:
        for positions, values in batches:
            if positions:  # a padding batch has none
                logps[list(positions)] = values
    assert np.isfinite(logps).all(), "a pair without reference log-probabilities"
    return logps


def save(path: Path, ids: Sequence[str], logps: Logps) -> None:
    if dist.get_rank() == 0:
        temporary = path.with_name(f".{path.name}.tmp.npz")
        np.savez(temporary, ids=np.array(ids), logps=logps)
        temporary.replace(path)
    dist.barrier()


def load(path: Path, ids: Sequence[str]) -> Logps | None:
    """The stored log-probabilities, None if there is no file. Raises DataError unless they are those of these pairs."""
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
