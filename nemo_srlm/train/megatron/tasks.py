"""What the training loop trains on: a task is a stream of examples, their loss and its metrics. Here: SFT and pretraining."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from nemo_srlm.data.chat import Document
from nemo_srlm.train import losses
from nemo_srlm.train.batches import Unit, index_at
from nemo_srlm.train.losses import Loss
from nemo_srlm.train.megatron.step import LocalBatch


@dataclass(frozen=True)
class Task:
    """Examples and a loss. `unit_at` maps a position of the endless shuffled stream to the documents of one unit.

    `count_scale`: Megatron adds up counts as integers, so the loss's counts must be multiples of 1 / count_scale.
    """

    unit_at: Callable[[int], Unit]
    num_units: int
    loss: Callable[[Tensor, LocalBatch], Loss]
    metrics: Mapping[str, str]  # name -> what its count counts
    count_scale: int = 1


def sft_task(documents: Sequence[Document], seed: int, smallest_weight: float = 1.0, shuffled: bool = True) -> Task:
    """Next-token loss on weighted tokens. `smallest_weight`: of the loss weights (pretraining weighs questions less)."""
    num = len(documents)

    def unit_at(position: int) -> Unit:
        return (documents[index_at(position, num, seed) if shuffled else position],)

    def loss(nll_BS: Tensor, batch: LocalBatch) -> Loss:
        return losses.sft(nll_BS, batch.weights_BS)

    scale = Fraction(smallest_weight).limit_denominator(1000).denominator
    return Task(unit_at, num, loss, losses.SFT_METRICS, count_scale=scale)
