"""Functions of the user's in Python files that settings name as FILE.py:FUNCTION: finding, loading, identity."""

import ast
import functools
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nemo_srlm.core.files import content_digest
from nemo_srlm.errors import ConfigError


def identity(key: str, named: str) -> dict[str, str]:
    """What identifies the function: the file's content (not its path) and the name. Raises ConfigError where there is no file."""
    path, name = _split(key, named)
    return {"file": content_digest(path), "function": name}


def check(key: str, named: str) -> None:
    """Raises ConfigError for a file that is no Python or has no such function, before the run and without running it."""
    path, name = _split(key, named)
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise ConfigError(key, f"{path}:{error.lineno}: {error.msg}", "a file of Python", "correct it") from error
    except ValueError as error:  # a NUL, until Python 3.12
        raise ConfigError(key, f"{path}: {error}", "a file of Python", "correct it") from error
    if not {name, "*"} & set(_names(tree)):
        raise _no_function(key, path, name)


def _names(node: ast.AST) -> Iterator[str]:
    """What may be callable at module level: functions, classes, assigned and imported names ("*": any); no coroutines."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            yield child.name
        elif isinstance(child, ast.alias):
            yield child.asname or child.name.partition(".")[0]
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        elif not isinstance(child, (ast.AsyncFunctionDef, ast.Lambda)):
            yield from _names(child)


def _no_function(key: str, path: Path, name: str) -> ConfigError:
    return ConfigError(
        key, f"{path} has no function {name}", f"a function {name}(prompt, response), not async", "correct the name"
    )


@functools.cache
def load(key: str, named: str) -> Callable[..., Any]:
    """The function that the setting `key` names. Raises ConfigError when the file does not run, or has no such function.

    The file's folder is the first on sys.path from then on: it imports its neighbours, also when the function is called.
    """
    path, name = _split(key, named)
    if (folder := str(path.resolve().parent)) != sys.path[0]:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(f"_user_{content_digest(path)[:16]}_{path.stem}", path)
    assert spec is not None, "the name ends in .py"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a module up by its name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's code raises, the message names it
        del sys.modules[spec.name]
        raise ConfigError(
            key, f"{path} raises {type(error).__name__}: {error}", "a file that runs", "mend it"
        ) from error
    found = vars(module).get(name)
    if not callable(found):
        raise _no_function(key, path, name)
    return found  # type: ignore[no-any-return]  # what it returns is looked at by its callers


def _split(key: str, named: str) -> tuple[Path, str]:
    file, _, name = named.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ConfigError(key, f"no such file: {path.absolute()}", "FILE.py:FUNCTION", "correct the path")
    return path, name
