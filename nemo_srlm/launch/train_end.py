"""Owns how a training worker ends: 0 done, 75 saved and not finished (run it again), 2 the user's mistake."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from nemo_srlm.errors import UserError, of_system
from nemo_srlm.train.megatron import setup
from nemo_srlm.train.megatron.trainer import Stopped

EXIT_USER, EXIT_AGAIN = 2, 75


def end_of(work: Callable[[], None], directory: Path, write_error: Callable[[str], None]) -> int:
    """Does the work and leaves its process groups; the exit code. Rank 0 has a user's mistake written down.

    What is no mistake of the user's is raised. `directory`: where the work writes, for a look at its disk.
    """
    try:
        work()
        setup.shutdown()
    except Stopped as stopped:
        print(stopped, file=sys.stderr, flush=True)
        return EXIT_AGAIN
    except Exception as error:
        mistake = error if isinstance(error, UserError) else of_system(error, directory)
        if mistake is None:
            raise
        if os.environ.get("RANK", "0") == "0":
            write_error(str(mistake))
        print(f"error: {mistake}", file=sys.stderr, flush=True)
        return EXIT_USER
    return 0
