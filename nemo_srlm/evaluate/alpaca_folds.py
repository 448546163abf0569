"""Which fold of the cross-validation a row of AlpacaEval's length control belongs to, as the package decides it.

It uses scikit-learn's GroupKFold with groups of one size, which orders the groups by `np.argsort` of that size. Sorting equal
keys with numpy's quicksort shuffles them, always in the same way; with the vector instructions of newer processors and numpy
versions they stay in order. So a row of the leaderboard depends on the machine that computed it: the authors' own rows are
those of the shuffled order, some later ones those of the other (docs/measurements.md).
"""

import numpy as np
import numpy.typing as npt

Folds = npt.NDArray[np.int64]
SMALL = 15  # numpy sorts what has at most one more element by insertion, which leaves equal keys alone


def in_order(num: int, folds: int) -> Folds:
    """[num] the fold of each row where equal keys stay in order."""
    return np.arange(num) % folds


def shuffled(num: int, folds: int) -> Folds:
    """[num] the fold of each row where numpy's quicksort has shuffled equal keys. The rows are dealt out from its end."""
    found = np.zeros(num, dtype=np.int64)
    found[quicksort_of_equals(num)[::-1]] = np.arange(num) % folds
    return found


def quicksort_of_equals(num: int) -> npt.NDArray[np.int64]:
    """[num] `np.argsort(np.full(num, 1))` without vector instructions: median of three, partition, both parts again."""
    order, todo = list(range(num)), [(0, num - 1)]

    def swap(a: int, b: int) -> None:
        order[a], order[b] = order[b], order[a]

    while todo:
        first, last = todo.pop()
        if last - first <= SMALL:
            continue
        low, high = first, last - 1
        swap(first + (last - first) // 2, high)
        while True:  # equal keys stop both ends at every step
            low, high = low + 1, high - 1
            if low >= high:
                break
            swap(low, high)
        swap(low, last - 1)
        todo += [(first, low - 1), (low + 1, last)]
    return np.array(order, dtype=np.int64)
