"""The weights of the lowest validation loss, where these and not the last ones are a training's result (keep_best)."""

import json
from pathlib import Path
from typing import Any

from nemo_srlm.train.checkpoint_dir import BEST, BEST_FILE, FINAL, incomplete_reason
from nemo_srlm.train.megatron import checkpoint, ranks
from nemo_srlm.train.megatron.saving import Saver


class BestWeights:
    """Every rank makes one and calls its methods at the same steps.

    A resumed training may find weights of a step after its checkpoint: it will compute that step again, with the same loss.
    """

    def __init__(self, directory: Path, saver: Saver) -> None:
        self._directory, self._saver = directory, saver
        self._lowest = ranks.of_main(lambda: _kept_loss(directory / BEST))

    def update(self, step: int, loss: float, chunks: list[Any], optimizer: Any) -> None:
        """Keeps the current weights if no earlier ones had a loss as low."""
        if self._lowest is None or loss < self._lowest:
            self._lowest = loss
            self._saver.save_weights(chunks, optimizer, BEST, {BEST_FILE: {"step": step, "loss": loss}})

    def finalize(self) -> None:
        """Makes the kept weights the final ones."""
        checkpoint.rename(self._directory, BEST, FINAL)


def _kept_loss(directory: Path) -> float | None:
    """The loss of the weights that an earlier attempt kept; None where there are none."""
    if incomplete_reason(directory):
        return None
    return float(json.loads((directory / BEST_FILE).read_text(encoding="utf-8"))["loss"])
