"""Types for argparse: each names the argument's form in its error message."""

import re
from argparse import ArgumentTypeError

from nemo_srlm.core.stage import Ref
from nemo_srlm.train.step_time import NODE

LARGEST = 1e12


def stage_ref(text: str) -> Ref:
    """`iter1/judge`. The stage's name is not looked up."""
    if not re.fullmatch(r"iter[0-9]+/\w+", text, re.ASCII):
        raise ArgumentTypeError(f"{text!r} is no stage of a run; expected iterT/STAGE, for example iter1/judge")
    return Ref.parse(text)


def shard(text: str) -> tuple[int, int]:
    """`3/8` -> (3, 8): shard 3, counted from 0, of 8."""
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise ArgumentTypeError(f"{text!r} is no shard; expected K/N with 0 <= K < N, for example 3/8")
    return int(found[1]), int(found[2])


def positive(text: str) -> float:
    """A number above 0, in ASCII digits, and of a size that can be computed with."""
    number = float(text) if re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?", text, re.ASCII) else 0.0
    if not 0 < number <= LARGEST:
        raise ArgumentTypeError(f"{text[:80]!r}; expected a number above 0, at most {LARGEST:g}")
    return number


def count(text: str) -> int:
    """A whole number above 0, in ASCII digits."""
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or int(text) < 1:
        raise ArgumentTypeError(f"{text!r}; expected a whole number above 0")
    return int(text)


def gpu_count(text: str) -> int:
    """GPUs of a part of a node, or of whole nodes."""
    number = count(text)
    if number > NODE and number % NODE:
        raise ArgumentTypeError(f"{text!r}; expected 1 to {NODE} GPUs, or a multiple of {NODE}: nodes have {NODE}")
    return number


def count_or_zero(text: str) -> int:
    """A whole number from 0 on, in ASCII digits."""
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        raise ArgumentTypeError(f"{text!r}; expected a whole number, 0 or more")
    return int(text)


def fraction(text: str) -> float:
    """A number above 0 and at most 1."""
    number = positive(text)
    if number > 1:
        raise ArgumentTypeError(f"{text!r}; expected a number above 0 and at most 1")
    return number
