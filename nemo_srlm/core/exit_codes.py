"""How a command ends: whatever it raises becomes one message and an exit code."""

import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from nemo_srlm import __version__
from nemo_srlm.core.terminal import say
from nemo_srlm.errors import UserError, of_missing_package, of_system

FAILED = 1  # a stage failed, or a fault of the program
MISTAKE = 2  # the user's
INTERRUPTED = 130
PIPE = 141  # the reader of the output has gone: what a shell reports of programs that the signal ends


def guarded(command: Callable[[], int], interrupted: str) -> int:
    """Runs the command and returns its exit code. Ctrl-C is answered with the words `interrupted`."""
    try:
        return command()
    except UserError as error:
        say(f"error: {error}", error=True)
        return MISTAKE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more when it ends
        return PIPE
    except KeyboardInterrupt:
        say(interrupted, error=True)
        return INTERRUPTED
    except Exception as error:
        if mistake := of_missing_package(error) or of_system(error, Path.cwd()):
            say(f"error: {mistake}", error=True)
            return MISTAKE
        say(_unforeseen(error), error=True)
        return FAILED


def _unforeseen(error: Exception) -> str:
    """The message about an exception that nobody thought of. Its traceback goes to a log outside of every run."""
    versions = f"nemo-srlm {__version__}, Python {platform.python_version()}, {platform.platform()}"
    details = "".join(traceback.format_exception(error))
    what = f"error: {type(error).__name__}: {error}\n  This is a fault of nemo-srlm"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="nemo-srlm-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as log:
            log.write(f"{versions}\n{sys.argv}\n{details}")
    except OSError:  # no place to write: the details are on the screen then
        return f"{what}. Please report it with these lines:\n{versions}\n{details}"
    return f"{what}, nothing that you can correct. Please report it with its log: {log.name}"
