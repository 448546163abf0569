"""Which checkpoint of a training to keep, by its answers against those of the checkpoint before it."""

from collections.abc import Sequence


def choose(nets: Sequence[float]) -> int:
    """Index of the checkpoint to keep: 0 is the first one, `nets[k]` the wins - losses of checkpoint k + 1 against k.

    Training details of arXiv 2401.10020, section 3.1: training stops when the newest answers no longer beat the ones before. A
    comparison without a winner is not won.
    """
    for k, net in enumerate(nets):
        if net <= 0:
            return k
    return len(nets)
