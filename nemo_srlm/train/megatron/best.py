"""Owns the weights of the lowest validation loss where they, and not the last ones, are a training's result (keep_best)."""

import json
from pathlib import Path
from typing import Any

import torch.distributed as dist

from nemo_srlm.train.checkpoint_dir import BEST, BEST_OF, FINAL, incomplete_reason
from nemo_srlm.train.megatron import checkpoint
from nemo_srlm.train.megatron.saving import Saver


class BestWeights:
    """Every rank makes one and calls its methods at the same steps.

    A resumed training may find weights of a step that it has yet to reach again: it would write the same ones.
    """

    def __init__(self, directory: Path, saver: Saver) -> None:
        self._directory, self._saver = directory, saver
        held = directory / BEST
        found: list[float | None] = [None]
        if dist.get_rank() == 0 and held.is_dir() and not incomplete_reason(held):
            found = [json.loads((held / BEST_OF).read_text(encoding="utf-8"))["loss"]]
        dist.broadcast_object_list(found, src=0)
        self._loss = found[0]

    def update(self, step: int, loss: float, chunks: list[Any]) -> None:
        """Keeps these weights when no earlier ones had as low a loss."""
        if self._loss is None or loss < self._loss:
            self._loss = loss
            self._saver.save_weights(chunks, BEST, {BEST_OF: {"step": step, "loss": loss}})

    def finalize(self) -> None:
        """Makes the kept weights the final ones."""
        checkpoint.rename(self._directory, BEST, FINAL)
