"""What a checker of the user's may return, raise or leave behind: a score, or an error of that response."""

import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_srlm.core.files import dump
from nemo_srlm.core.stage import Context, Stage
from nemo_srlm.core.user_code import load
from nemo_srlm.errors import ConfigError
from nemo_srlm.judge.checkers import Failed, checked, command_check
from nemo_srlm.judge.judgements import JudgeItem
from nemo_srlm.launch.worker import call

ITEM = JudgeItem("c", "p", "Why?", "Because.")


@pytest.mark.parametrize(
    ("score", "number"),
    [(np.float32(0.5), 0.5), (np.int64(3), 3.0), (np.True_, 1.0), (Decimal("0.25"), 0.25), (True, 1.0), (2, 2.0)],
)
def test_numbers_of_other_packages_are_numbers(score: Any, number: float):
    assert checked(lambda prompt, response: score, ITEM).scores == (number,)


@pytest.mark.parametrize(
    ("score", "shown"),
    [
        ("4", "'4' (str)"), (10**400, "'1000000000000000000000000000000000000000' (int)"), (10**5000, "an object of type int"),
        (float("nan"), "'nan' (float)"), ([1], "'[1]' (list)"), (np.zeros(2), "'[0. 0.]' (ndarray)"), (1j, "'1j' (complex)"),
    ],
    ids=range(7),  # pytest cannot write the third
)  # fmt: skip
def test_what_is_no_finite_number_is_an_error_of_the_response(score: Any, shown: str):
    found = checked(lambda prompt, response: score, ITEM)
    assert (found.scores, found.error) == ((), f"checker: {shown} is no finite number")


def test_a_checker_that_ends_the_process_or_raises_what_cannot_be_written():
    def ends(prompt: str, response: str) -> float:
        sys.exit(0)

    def raises(prompt: str, response: str) -> float:
        raise ValueError("half \ud800")

    assert checked(ends, ITEM).error == "checker: SystemExit: 0"
    assert checked(raises, ITEM).error == "checker: ValueError: half ?"
    dump(checked(raises, ITEM)).encode()


def test_a_program_is_finished_when_it_has_ended_whatever_it_leaves_behind():
    began = time.monotonic()
    assert command_check(["sh", "-c", "sleep 60 & echo 1"], 30)("p", "r") == 1
    assert time.monotonic() - began < 20


def test_programs_that_fail_say_why():
    for code, reason in (
        ("import time; time.sleep(60)", "checker_timeout: 1 s"),
        ("raise ValueError('no')", "checker_exit: code 1: ValueError: no"),
        ("print('[' * 100000)", "checker: its last line is no number: "),
        ("print('four')", "checker: its last line is no number: 'four'"),
    ):  # fmt: skip
        with pytest.raises(Failed, match=reason):
            command_check([sys.executable, "-c", code], 1 if "sleep" in code else 30)("p", "r")


def test_a_program_need_not_read_what_it_is_given():
    assert command_check(["sh", "-c", "echo 2"], 30)("p", "x" * 1_000_000) == 2


def test_a_file_that_ends_the_process_is_an_error_of_the_setting(tmp_path: Path):
    (tmp_path / "main.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(
        ConfigError, match=r"checker\.function: .*main\.py raises SystemExit: 0; expected a file that runs"
    ):
        load("checker.function", f"{tmp_path}/main.py:score")


def test_a_stage_that_ends_the_process_is_not_done():
    def run(ctx: Context) -> None:
        sys.exit(0)

    stage = Stage("x", "cpu", lambda cfg, t: {}, lambda cfg, t: {}, run, lambda ctx: {})
    with pytest.raises(RuntimeError, match=r"sys\.exit\(0\) was called in the stage"):
        call(stage, None)  # type: ignore[arg-type]  # the stage does not look at it
