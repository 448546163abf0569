"""Checkers: a user's function or program that gives a response its score, and the Judgement record of one check.

A score is a finite number, within 0 and the scale where the run counts with a scale. None (`null` of a program) means that
there is none; whatever else comes back, an exception, an exit code other than 0 and a timeout are errors of the item, recorded
with their reason.
"""

import json
import math
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import IO, Any, SupportsFloat

from nemo_srlm.core.records import Judgement
from nemo_srlm.judge.judgements import JudgeItem

Check = Callable[[str, str], Any]  # (prompt, response) -> its score
MAX_TEXT = 2000  # characters of a program's output that are kept


class Failed(Exception):
    """A check without a result; the message is its reason."""


def checked(check: Check, item: JudgeItem, scale: float | None = None) -> Judgement:
    """The check of one response as a judgement with one draw. `scale`: the largest score that is none of an error; None = any."""
    try:
        score = check(item.instruction, item.response)
    except Failed as error:
        return _error(item, str(error))
    # the user's code may raise anything, and end the process; the run goes on with the other candidates
    except (Exception, SystemExit) as error:
        return _error(item, f"checker: {type(error).__name__}: {error}")
    if score is None:
        return Judgement(item.id, item.prompt_id, (None,), ("",), ("stop",))
    value = _number(score)
    if value is None:
        return _error(item, f"checker: {_shown(score)} is no finite number")
    if scale is not None and not 0 <= value <= scale:
        return _error(item, f"checker: {value:g} is not within 0 and checker.max_score, {scale:g}")
    return Judgement(item.id, item.prompt_id, (value,), ("",), ("stop",))


def _number(score: object) -> float | None:
    """A finite number, also of numpy, torch or decimal; None for anything else, such as a text that holds a number."""
    if not isinstance(score, SupportsFloat):
        return None
    try:
        value = float(score)
    except Exception:  # an integer beyond floats, a tensor of several numbers, a class of the user's
        return None
    return value if math.isfinite(value) else None


def _shown(score: object) -> str:
    try:
        return f"{str(score)[:40]!r} ({type(score).__name__})"
    except Exception:  # str() of an integer of more than 4,300 digits, or of a class of the user's
        return f"an object of type {type(score).__name__}"


def _error(item: JudgeItem, reason: str) -> Judgement:
    writable = reason[:MAX_TEXT].encode("utf-8", "replace").decode()  # half a surrogate cannot be written
    return Judgement(item.id, item.prompt_id, (), (), (), writable)


def command_check(command: Sequence[str], timeout: float) -> Check:
    """The check of a program, which is started once for each response."""

    def check(prompt: str, response: str) -> Any:
        # files, not pipes: what the program leaves behind may hold a pipe open long after its end
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write(json.dumps({"prompt": prompt, "response": response}).encode())
            given.seek(0)
            child = subprocess.Popen(command, stdin=given, stdout=out, stderr=err, start_new_session=True)
            try:
                child.wait(timeout)
            except subprocess.TimeoutExpired:
                raise Failed(f"checker_timeout: {timeout:g} s") from None
            finally:
                _kill_group(child)
            if child.returncode:
                raise Failed(f"checker_exit: code {child.returncode}: {_last_line(err)}")
            last = _last_line(out)
        try:
            return json.loads(last)
        except (ValueError, RecursionError):  # a line of brackets alone
            raise Failed(f"checker: its last line is no number: {last[:40]!r}") from None

    return check


def _last_line(written: IO[bytes]) -> str:
    """Of its last 64 KiB; "" where nothing was written."""
    written.seek(max(0, written.seek(0, os.SEEK_END) - 65_536))
    return (written.read().decode(errors="replace").strip().splitlines() or [""])[-1]


def _kill_group(child: "subprocess.Popen[bytes]") -> None:
    """Ends what the program started and left behind; nothing where all of it has ended."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        child.wait()
