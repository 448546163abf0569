"""Limits of a chat template: it comes with a model, and must neither hang nor fill the memory of whoever loads it.

The sandbox (jinja2's, as transformers sets it up) keeps a template from code and files; `9 ** (9 ** 9)` and loops of loops are
allowed there. Operators refuse results of an unreasonable size, and a rendering has a limit of processor time. Methods and
filters (`"x".ljust(n)`, `center`, `join`) have the limit of time alone, not that of size.
"""

import functools
import operator
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.visitor import NodeTransformer

MOST_BITS = 4096  # of a whole number
MOST_LENGTH = 2**24  # of a text or list
SECONDS = 30.0  # of processor time for one rendering, which takes a millisecond
CONCAT = "limited_concat"
WIDE = re.compile(r"%[^a-zA-Z%]*(\*|\d{5})")  # a format that pads to 10,000 characters or more, or to a computed width


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and abs(left) > 1 and right * left.bit_length() > MOST_BITS:
        raise SecurityError(f"`**` would give a number of more than {MOST_BITS} bits")
    return left**right


def _times(left: Any, right: Any) -> Any:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, (str, list, tuple)) and isinstance(other, int):
            _refuse_long(len(one) * other, "*")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MOST_BITS:
        raise SecurityError(f"`*` would give a number of more than {MOST_BITS} bits")
    return left * right


def _plus(left: Any, right: Any) -> Any:
    if isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
        _refuse_long(len(left) + len(right), "+")
    return left + right


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, str) and WIDE.search(left):
        raise SecurityError("`%` would pad to 10,000 characters or more")
    return operator.mod(left, right)


def _concat(parts: list[Any]) -> str:
    """Jinja's `~`."""
    texts = [str(part) for part in parts]
    _refuse_long(sum(map(len, texts)), "~")
    return "".join(texts)


def _refuse_long(length: int, name: str) -> None:
    if length > MOST_LENGTH:
        raise SecurityError(f"`{name}` would give a text or list of {length:,} elements; at most {MOST_LENGTH:,}")


class _LimitConcat(NodeTransformer):
    """`~` is no operator that jinja2 lets intercept: it becomes a filter."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        parts = self.generic_visit(nodes.List(node.nodes, lineno=node.lineno))
        return nodes.Filter(parts, CONCAT, [], [], None, None, lineno=node.lineno)


LIMITED: dict[str, Callable[[Any, Any], Any]] = {"**": _power, "*": _times, "+": _plus, "%": _modulo}


@functools.lru_cache(maxsize=16)
def compiled(text: str) -> jinja2.Template:
    """The template, compiled as transformers does, with limited operators. Raises TemplateSyntaxError."""
    from transformers.utils import chat_template_utils

    # the sandbox with transformers' filters and tags; an overlay, because transformers keeps its own in a cache
    made: Any = chat_template_utils._compile_jinja_template("").environment.overlay()
    made.intercepted_binops = frozenset(LIMITED)
    made.binop_table = made.binop_table | LIMITED
    made.filters = made.filters | {CONCAT: _concat}
    tree = _LimitConcat().visit(made.parse(text))
    template: jinja2.Template = made.from_string(tree)
    return template


@contextmanager
def limited_time() -> Iterator[None]:
    """Raises TemplateError in its body after SECONDS of processor time of the process. In the main thread only, where Python
    handles signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise jinja2.TemplateError(f"it takes more than {SECONDS:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)
