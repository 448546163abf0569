"""Self-Rewarding Language Models (arXiv 2401.10020) as a Megatron-scale trainer: M0 -> M1 -> M2 -> M3.

An interpreter that cannot run the package says so in one line, with exit code 2. That is checked here, before any module
that an older Python cannot read, and for every entry alike: the command line, a job's step, a worker in a container.
"""

import importlib.util
import sys

__version__ = "0.2.0"

_OLDEST = (3, 11)  # requires-python of pyproject.toml
# the modules of pyproject.toml's dependencies
_LIGHT = ("hydra", "jinja2", "msgspec", "numpy", "omegaconf", "rapidfuzz", "regex", "rich", "scipy", "yaml")


def _unfit() -> str:
    """Why this interpreter cannot run even the light commands, and what to do; "" if it can. Readable by Python 3.6."""
    if sys.version_info < _OLDEST:
        found, wanted = (".".join(map(str, numbers)) for numbers in (sys.version_info[:3], _OLDEST))
        remedy = "a login node needs `make venv-light PYTHON=python3.11` only (docs/install.md)"
        return f"Python {found}; expected {wanted} or later; {remedy}"
    absent = [name for name in _LIGHT if importlib.util.find_spec(name) is None]
    if absent:
        remedy = "`make venv-light`, or `pip install .` (docs/install.md)"
        return f"no {', '.join(absent)}; expected the light environment; {remedy}"
    return ""


_reason = _unfit()
if _reason:
    print(f"error: {sys.executable}: {_reason}", file=sys.stderr)
    sys.exit(2)
