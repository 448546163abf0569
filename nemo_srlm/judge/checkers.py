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
from collections.abc import Callable, Sequence
from typing import Any

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
    except Exception as error:  # the user's code may raise anything; the run goes on with the other candidates
        return _error(item, f"checker: {type(error).__name__}: {error}")
    if score is None:
        return Judgement(item.id, item.prompt_id, (None,), ("",), ("stop",))
    if isinstance(score, bool):
        score = float(score)
    if not isinstance(score, (int, float)) or not math.isfinite(score):
        return _error(item, f"checker: {str(score)[:40]!r} is no finite number")
    if scale is not None and not 0 <= score <= scale:
        return _error(item, f"checker: {score:g} is not within 0 and checker.max_score, {scale:g}")
    return Judgement(item.id, item.prompt_id, (float(score),), ("",), ("stop",))


def _error(item: JudgeItem, reason: str) -> Judgement:
    return Judgement(item.id, item.prompt_id, (), (), (), reason[:MAX_TEXT])


def command_check(command: Sequence[str], timeout: float) -> Check:
    """The check of a program, which is started once for each response."""

    def check(prompt: str, response: str) -> Any:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        text = json.dumps({"prompt": prompt, "response": response}).encode()
        try:
            out, err = child.communicate(text, timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"checker_timeout: {timeout:g} s") from None
        finally:
            _kill_group(child)
        if child.returncode:
            last = (err.decode(errors="replace").strip().splitlines() or [""])[-1]
            raise Failed(f"checker_exit: code {child.returncode}: {last}")
        last = (out.decode(errors="replace").strip().splitlines() or [""])[-1]
        try:
            return json.loads(last)
        except ValueError:
            raise Failed(f"checker: its last line is no number: {last[:40]!r}") from None

    return check


def _kill_group(child: "subprocess.Popen[bytes]") -> None:
    """Ends what the program started and left behind; nothing where all of it has ended."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        child.wait()
