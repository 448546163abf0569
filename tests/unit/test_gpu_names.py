"""What the tests and tools for GPUs call exists, with these arguments: found by reading them, because nothing here runs them.

Imports of this project and of megatron-core are made; every call of an imported or own function is bound to its signature.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    *sorted(path for path in (ROOT / "tests/gpu").glob("test_*.py")), ROOT / "tools/te_checks.py", ROOT / "tools/bench/mfu.py",
    ROOT / "tools/bench/first_loss.py",
    *(ROOT / f"tests/pipeline/{name}.py" for name in ("te_families", "fp8_tensor", "fused_adam", "graph_tensors", "overlap")),
]  # fmt: skip
CHECKED = ("nemo_srlm", "tests", "tools", "megatron", "torch")
ABSENT = ("transformer_engine", "apex")  # what only a machine with a GPU has
UNKNOWN = object()


def imported(tree: ast.Module) -> tuple[dict[str, Any], list[str]]:
    """(what each imported name is, problems). A name that several functions import from different places is left out."""
    found: dict[str, Any] = {}
    problems = []

    def add(name: str, value: Any) -> None:
        found[name] = value if found.get(name, value) is value else UNKNOWN

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in CHECKED:
                    module = importlib.import_module(alias.name)
                    add(alias.asname or alias.name.split(".")[0], module if alias.asname else _top(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in CHECKED:
            try:
                module = importlib.import_module(node.module)
            except ModuleNotFoundError as error:
                if (error.name or "").split(".")[0] in ABSENT:
                    continue
                problems.append(f"{node.lineno}: {node.module}: {error}")
                continue
            for alias in node.names:
                value = _member(module, alias.name)
                if value is UNKNOWN:
                    problems.append(f"{node.lineno}: {node.module} has no {alias.name}")
                add(alias.asname or alias.name, value)
    return found, problems


def _top(name: str) -> Any:
    return importlib.import_module(name.split(".", maxsplit=1)[0])


def _member(module: Any, name: str) -> Any:
    if (value := getattr(module, name, UNKNOWN)) is not UNKNOWN:
        return value
    try:
        return importlib.import_module(f"{module.__name__}.{name}")
    except (ImportError, AttributeError):
        return UNKNOWN


def _resolved(node: ast.expr, names: dict[str, Any], problems: list[str]) -> Any:
    """What an expression `a` or `a.b.c` is, where `a` is known and `a.b` a module."""
    if isinstance(node, ast.Name):
        return names.get(node.id, UNKNOWN)
    if not isinstance(node, ast.Attribute):
        return UNKNOWN
    base = _resolved(node.value, names, problems)
    if not inspect.ismodule(base) and not inspect.isclass(base):
        return UNKNOWN
    value = _member(base, node.attr) if inspect.ismodule(base) else getattr(base, node.attr, UNKNOWN)
    if value is UNKNOWN:
        problems.append(f"{node.lineno}: {ast.unparse(node.value)} has no {node.attr}")
    return value


def _local(tree: ast.Module) -> set[str]:
    """Names that the file binds otherwise than by imports: parameters, variables."""
    bound = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return bound | {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def problems_of(source: str, own: dict[str, Any]) -> Iterator[str]:
    """Names that do not exist and calls that do not fit. own: the functions and classes that the file defines."""
    tree = ast.parse(source)
    names, problems = imported(tree)
    names = {name: value for name, value in (own | names).items() if name not in _local(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            _resolved(node, names, problems)
        function = _resolved(node.func, names, []) if isinstance(node, ast.Call) else UNKNOWN
        if isinstance(node, ast.Call) and callable(function) and (wrong := _unfit(node, function)):
            problems.append(f"{node.lineno}: {ast.unparse(node)[:100]}: {wrong}")
    yield from dict.fromkeys(problems)


def _unfit(call: ast.Call, function: Any) -> str:
    """Why a call does not fit the signature; "" where it does, or where that cannot be known."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ""  # of C code
    open_ended = any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords)
    given = [a for a in call.args if not isinstance(a, ast.Starred)]
    named = {k.arg: None for k in call.keywords if k.arg is not None}
    try:
        (signature.bind_partial if open_ended else signature.bind)(*given, **named)
    except TypeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_name_that_a_gpu_check_uses_exists_and_takes_its_arguments(path: Path):
    source = path.read_text()
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    own = {
        node.name: getattr(inspect.unwrap(value), "__wrapped__", value)
        for node in ast.parse(source).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("test_")
        and not any("fixture" in ast.unparse(d) for d in node.decorator_list)
        and (value := getattr(module, node.name))
    }
    assert list(problems_of(source, own)) == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("from nemo_srlm.train.layout import nowhere", "has no nowhere"),
        ("from nemo_srlm.train.nowhere import x", "No module named"),
        ("from nemo_srlm.train import layout\nlayout.nowhere", "has no nowhere"),
        ("def f():\n from nemo_srlm.config.training import PrecisionSection\n PrecisionSection(fp9='x')", "fp9"),
        ("from nemo_srlm.train.layout import world_size\nworld_size()", "missing a required argument"),
        ("def g():\n from megatron.core import parallel_state\n parallel_state.nowhere()", "has no nowhere"),
    ],
)  # fmt: skip
def test_what_does_not_exist_or_fit_is_found(source: str, said: str):
    (problem,) = problems_of(source, {})
    assert said in problem
