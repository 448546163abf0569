"""Early stopping by head-to-head: which checkpoint of a training to keep."""

from collections.abc import Sequence


def choose(nets: Sequence[float]) -> int:
    """Index of the checkpoint to keep; `nets[k]` is the share of wins minus losses of checkpoint k + 1 against checkpoint k.

    arXiv 2401.10020, section 3.1, "Training Details": stop when the responses of the newest checkpoint no longer win
    against those of the previous one. An even comparison (0) is not a win.
    """
    for k, net in enumerate(nets):
        if net <= 0:
            return k
    return len(nets)
