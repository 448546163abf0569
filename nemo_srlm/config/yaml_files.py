"""The one reader of YAML files: what Hydra and OmegaConf read after it is a mapping of plain values, in UTF-8, of a sane size.

It refuses what readers of YAML 1.1 and 1.2 understand differently. PyYAML, which Hydra reads with, makes `false` of `no`, 83 of
`0123` and 86400 of `24:00:00`; the run would go on with another value than the one that is written.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nemo_srlm.config.text_files import text_file
from nemo_srlm.errors import ConfigError

LARGEST = 2**20  # characters of a file
DEEPEST = 32  # levels of sections and lists
MOST = 20_000  # values, with every use of an alias counted: a few lines of aliases can stand for billions
EXPECTED = "a YAML file in UTF-8"
# what PyYAML makes a switch or a number of, and YAML 1.2 a text or another number
_AMBIGUOUS = re.compile(
    r"[Yy]es|YES|[Nn]o|NO|[Oo]n|ON|[Oo]ff|OFF|[-+]?0[0-7_]+|[-+]?0b[01_]+|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+"
    r"|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?[0-9.]+_[0-9_.]*(?:[eE][-+]?[0-9]+)?"
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a YAML file, {} for an empty one. Raises ConfigError, with line and column, for anything that is no
    mapping of plain values: another encoding, a key twice, tags, aliases of themselves, ambiguous words and numbers."""
    with text_file(path, EXPECTED) as file:
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise ConfigError(path, f"more than {LARGEST:,} characters", "a file of settings")
    return parse_yaml(text, path)


def parse_yaml(text: str, where: object) -> dict[str, Any]:
    """`read_yaml` of a text; `where` names it in messages."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return {}
        if any(number > MOST for number, _ in enumerate(_checked(root, where, ()))):
            raise ConfigError(where, f"more than {MOST:,} values, with every use of an alias", "a file of settings")
        found = yaml.load(text, Loader=yaml.SafeLoader)  # SafeLoader makes plain values
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        raise ConfigError(
            _at(where, error.problem_mark), f"not YAML: {error.problem or error.context}", EXPECTED, _remedy(str(error))
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(where, f"not YAML: {_first_line(error)}", EXPECTED) from error
    except (
        RecursionError,
        ValueError,
        AttributeError,
    ) as error:  # numbers of thousands of digits, dates that do not exist
        raise ConfigError(where, f"not YAML: {_first_line(error)}", EXPECTED) from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(where, f"a {type(found).__name__}", "sections and their settings (key: value)")
    return found


def _checked(node: Any, where: object, above: tuple[Any, ...]) -> Iterator[None]:
    """Yields once per value below a node of YAML's graph. Raises ConfigError for what this reader refuses."""
    import yaml

    yield None
    if any(node is other for other in above):
        raise ConfigError(_at(where, node.start_mark), "an alias of itself", "values that end")
    if len(above) >= DEEPEST:
        raise ConfigError(_at(where, node.start_mark), f"more than {DEEPEST} levels", "sections and their settings")
    inside = (*above, node)
    if isinstance(node, yaml.ScalarNode):
        if node.style is None and _AMBIGUOUS.fullmatch(node.value):
            raise ConfigError(
                _at(where, node.start_mark), f"{node.value}, which readers of YAML understand differently",
                "true or false, a decimal number, or a text in quotes", f'write "{node.value}" in quotes where it is a text',
            )  # fmt: skip
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _checked(item, where, inside)
    else:
        keys: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(_at(where, key.start_mark), "a key that is no word", "key: value")
            if key.value in keys:
                raise ConfigError(
                    _at(where, key.start_mark), f"{key.value} twice", "every key once", "remove one of them"
                )
            keys.add(key.value)
            yield from _checked(value, where, inside)


def _at(where: object, mark: Any) -> object:
    return where if mark is None else f"{where}:{mark.line + 1}:{mark.column + 1}"


def _remedy(words: str) -> str:
    if r"'\t'" in words:
        return "indent with blanks: YAML allows no tabs there"
    return "custom tags are not read: write plain values" if "could not determine a constructor" in words else ""


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def find(folders: Sequence[Path], name: str) -> Path | None:
    """`<name>.yaml` of the first folder that has it; None when none has."""
    return next((path for folder in folders if (path := folder / f"{name}.yaml").is_file()), None)


def check_defaults(folders: Sequence[Path], name: str, above: tuple[str, ...] = ()) -> set[str]:
    """Reads `<name>.yaml` of the folders and every file that its `defaults` name. Returns the groups that they name (cluster).

    Raises ConfigError for a list that Hydra cannot follow: no list, a file that names itself directly or through others.
    """
    path = find(folders, name)
    if path is None:
        return set()  # Hydra says which files there are, and whether the entry is optional
    if name in above:
        hidden = [folder for folder in folders if find([folder], name) not in (None, path)]
        other = f"give it another name than that of {hidden[0] / name}.yaml, which it hides" if hidden else ""
        raise ConfigError(
            path,
            f"its defaults lead back to it: {' -> '.join([*above, name])}",
            "defaults that end",
            other or "remove one of them",
        )
    groups = set[str]()
    data = read_yaml(path)
    if "hydra" in data:
        raise ConfigError(
            f"{path}: hydra", "Hydra's own settings, which have no effect here", "sections of this project"
        )
    defaults = data.get("defaults", [])
    if not isinstance(defaults, list):
        raise ConfigError(
            f"{path}: defaults", repr(defaults), "a list of files, for example [base, {cluster: cpu}, _self_]"
        )
    for entry in defaults:
        if isinstance(entry, str):
            if entry != "_self_":
                groups |= check_defaults(folders, _beside(name, entry), (*above, name))
        elif isinstance(entry, dict) and len(entry) == 1:
            group, chosen = next(iter(entry.items()))
            word = str(group).split()[-1].split("@")[0] if str(group).split() else ""
            if not word or not isinstance(chosen, (str, list, type(None))):
                raise ConfigError(f"{path}: defaults", repr(entry), "{folder: file}, for example {cluster: cpu}")
            groups.add(_beside(name, word))
            for one in chosen if isinstance(chosen, list) else [chosen]:
                if isinstance(one, str):
                    groups |= check_defaults(folders, _beside(name, f"{word}/{one}"), (*above, name))
        else:
            raise ConfigError(f"{path}: defaults", repr(entry), "a file, or {folder: file}")
    return groups


def _beside(name: str, entry: str) -> str:
    """A name of a defaults list, from the top folder: relative to the file that has the list, unless it begins with /."""
    entry = entry.split("@", maxsplit=1)[0].removesuffix(".yaml")
    if entry.startswith("/"):
        return entry[1:]
    parent = name.rpartition("/")[0]
    return f"{parent}/{entry}" if parent else entry
