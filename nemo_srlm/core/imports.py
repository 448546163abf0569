"""Imports of large libraries without the packages that they load where they find them, and that nothing here calls."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(*packages: str) -> Iterator[None]:
    """What is imported within finds none of these packages installed, but for those that are loaded already.

    A library that asks only once keeps that answer.
    """
    hidden = [package for package in packages if package not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is Python's mark of a module that is not there
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]
