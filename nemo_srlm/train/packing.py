"""Bin packing: which units of a step share a row, so that few positions are padding. Plain integers; knows no tokens.

A size is the length of a unit in positions. A unit is never parted, so a row may be as long as the longest unit even
where that is above the budget.
"""

from collections.abc import Sequence

Rows = list[list[int]]  # indices of the units of each row


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def first_fit_decreasing(sizes: Sequence[int], budget: int) -> Rows:
    """The largest first, each into the first row with room for it; at most 11/9 of the fewest rows, and one more."""
    rows: Rows = []
    loads: list[int] = []
    for i in _largest_first(sizes):
        target = next((r for r, load in enumerate(loads) if load + sizes[i] <= budget), None)
        if target is None:
            rows.append([])
            loads.append(0)
            target = len(rows) - 1
        rows[target].append(i)
        loads[target] += sizes[i]
    return rows


def level(sizes: Sequence[int], num_rows: int) -> Rows:
    """The largest first, each into the row that is shortest so far: `num_rows` rows of near-equal length."""
    rows: Rows = [[] for _ in range(num_rows)]
    loads = [0] * num_rows
    for i in _largest_first(sizes):
        target = min(range(num_rows), key=lambda r: (loads[r], r))
        rows[target].append(i)
        loads[target] += sizes[i]
    return rows


def fill_rows(sizes: Sequence[int], budget: int, multiple: int = 1) -> Rows:
    """The units in no more rows than first fit decreasing needs, levelled to near-equal length. Deterministic.

    A row has at most `budget` positions, or as many as the longest unit. The number of rows is a multiple of `multiple`,
    which divides the number of units. Equal lengths matter twice: replicas wait for the one with most tokens, and the
    rows of a pipeline are padded to the longest.
    """
    assert sizes, "no units"
    assert len(sizes) % multiple == 0, (len(sizes), multiple)
    limit = max(budget, *sizes)
    fewest = -(-sum(sizes) // limit)
    packed = first_fit_decreasing(sizes, limit)
    enough = round_up(len(packed), multiple)
    for num_rows in range(round_up(fewest, multiple), enough + 1, multiple):
        rows = level(sizes, num_rows)
        if all(sum(sizes[i] for i in row) <= limit for row in rows):
            return rows
    # levelling can need more room than first fit decreasing, whose rows are then filled up with those of single units
    return _part(packed, sizes, enough)


def in_order(sizes: Sequence[int], budget: int) -> Rows:
    """Units in the given order, a new row where the budget would be passed. For many units, sorted by size."""
    rows: Rows = []
    load = 0
    for i, size in enumerate(sizes):
        if not rows or load + size > budget:
            rows.append([])
            load = 0
        rows[-1].append(i)
        load += size
    return rows


def _part(rows: Rows, sizes: Sequence[int], num_rows: int) -> Rows:
    """Halves the longest row that has several units, until there are `num_rows`."""
    while len(rows) < num_rows:
        longest = max((r for r in rows if len(r) > 1), key=lambda r: sum(sizes[i] for i in r))
        at = rows.index(longest)
        halves = level([sizes[i] for i in longest], 2)
        rows[at : at + 1] = [[longest[i] for i in half] for half in halves]
    return rows


def _largest_first(sizes: Sequence[int]) -> list[int]:
    return sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
