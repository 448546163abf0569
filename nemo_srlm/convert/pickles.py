"""A check of a stranger's pickle before it is read; which names it may build is its reader's matter."""

import pickle
import pickletools


def check_memo(data: bytes) -> bytes:
    """Returns `data`. Raises UnpicklingError for a memo index beyond the number of its bytes.

    Every entry takes a byte at least, and Python's unpickler takes memory for all entries below the highest: 16 bytes could
    ask for 64 GiB.
    """
    for code, argument, _ in pickletools.genops(data):
        if code.name in ("PUT", "LONG_BINPUT") and argument is not None and argument > len(data):
            raise pickle.UnpicklingError(f"a memo of {argument} entries in {len(data)} bytes")
    return data
