"""YAML files and overrides -> a checked Config; saving it in a run directory and loading it again."""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.config.checks import check, check_fields, check_tiny_world
from nemo_srlm.config.fields import current_words
from nemo_srlm.config.imported import Describe, with_imported
from nemo_srlm.config.languages import with_language
from nemo_srlm.config.schema import Config
from nemo_srlm.config.shipped import CONFIGS
from nemo_srlm.config.type_errors import refuse_conversions, type_error
from nemo_srlm.config.yaml_files import check_defaults, find, read_yaml
from nemo_srlm.errors import ConfigError

_SECTIONS = tuple(f.name for f in dataclasses.fields(Config))
_SETTINGS = tuple(
    f.name for f in dataclasses.fields(Config) if not dataclasses.is_dataclass(f.type)
)  # beside the sections
# sections that the first version did not write, in the order in which they came: a config.yaml with one has all before it
_LATER = (
    ("export", "drift", "cluster"), ("api",), ("select",), ("checker",), ("judge_training",), ("reward_model",),
)  # fmt: skip
RESOLVED_CONFIG = "config.yaml"  # in the run directory: later changes of YAML files do not reach a started run


def compose(
    config_name: str = "tiny", overrides: Sequence[str] = (), config_dir: Path = CONFIGS, describe: Describe | None = None
) -> Config:  # fmt: skip
    """The config of `<config_dir>/<config_name>.yaml` and `key=value` overrides, checked against the schema.

    A name that `config_dir` does not have is that of a shipped file, here, in a file's defaults and behind `cluster=`.
    `describe` reads the model directory import_hf.path, whose architecture and chat format the config then has (see
    config/imported.py). The composition is the one that NeMo's `hydra_runner` does in the training workers, without NeMo's
    import time. Raises ConfigError for an unknown file, key or type and for settings that contradict each other.
    """
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    name = config_name.removesuffix(".yaml")
    folders = _folders(config_dir)
    known = ", ".join(sorted({p.stem for folder in folders for p in folder.glob("*.yaml")}))
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "--config-name", repr(name), f"a name without a folder, one of: {known}", "--config-dir names a folder"
        )
    if find(folders, name) is None:
        raise ConfigError("--config-name", f"no {name}.yaml in {' or '.join(map(str, folders))}", f"one of: {known}")
    groups = check_defaults(folders, name)
    for override in overrides:
        _check_override(override, folders)
    overrides = [with_line_breaks(override) for override in overrides]
    forced = [
        o if o.startswith("~") else _pick(o, groups) if _is_group(o, folders) else "++" + o.lstrip("+")
        for o in overrides
    ]
    try:
        with _searching(folders):
            loose = hydra_compose(name, overrides=forced)
    except (HydraException, OmegaConfBaseException, ValueError, RecursionError) as error:  # ValueError: cluster=1
        for override in overrides:
            _refuse_unreadable(override)
        raise ConfigError(f"{name}.yaml {' '.join(overrides)}".strip(), _first_line(error)) from error
    return typed(loose, f"{name}.yaml and overrides", describe)


def _folders(config_dir: Path) -> list[Path]:
    """Where YAML files are looked for, the user's folder first. Raises ConfigError when there is no such folder."""
    if not config_dir.is_dir():
        raise ConfigError(
            "--config-dir", f"{config_dir} is no directory", "a directory of YAML files",
            f"correct it, or leave it out: the configs of {CONFIGS} are found without it",
        )  # fmt: skip
    return [config_dir] if config_dir.resolve() == CONFIGS.resolve() else [config_dir, CONFIGS]


@contextmanager
def _searching(folders: Sequence[Path]) -> Iterator[None]:
    """Within it Hydra finds the files of the folders, those of the first one first.

    It is what hydra.initialize_config_dir does for one folder; the setting hydra.searchpath adds folders too late for the
    file that is asked for.
    """
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    version.setbase(None)
    path = create_config_search_path(str(folders[0].resolve()))
    for folder in folders[1:]:
        path.append("shipped", f"file://{folder.resolve()}", anchor=SearchPathQuery("main", None))
    Hydra.create_main_hydra2("app", path)
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_KEY = re.compile(r"~?\+{0,2}([A-Za-z_][A-Za-z0-9_]*)(?:\.[A-Za-z0-9_-]+)*")
LONGEST, NESTED = 100_000, 20  # of an override: characters, open brackets


def _check_override(override: str, folders: Sequence[Path]) -> None:
    """Raises ConfigError for what is no key=value or ~key, and for a key that is in no section (Hydra's own settings)."""
    key, equals, value = override.partition("=")
    shown = repr(override if len(override) < 80 else override[:77] + "...")
    section = _KEY.fullmatch(key)
    if section is None or (not equals and not key.startswith("~")):
        raise ConfigError("override", shown, "key=value, for example dpo.beta=0.2")
    if section[1] == "hydra":  # Hydra's own settings, which have no effect here
        raise ConfigError(
            key, "no such setting", f"one of {', '.join(_SECTIONS)}", "`nemo-srlm config` prints all keys"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(key, shown, "a value in UTF-8", "set the terminal to UTF-8") from error
    if len(value) > LONGEST or max(map(value.count, "[{(")) > NESTED:
        raise ConfigError(
            key, shown, f"at most {LONGEST:,} characters and {NESTED} brackets", "put it into a YAML file"
        )
    _refuse_folder(key.lstrip("~+"), folders)
    if _is_group(override, folders):
        name = f"{section[1]}/{value.removesuffix('.yaml')}"
        if not key.startswith("~") and not (_NAME.fullmatch(value) and find(folders, name)):
            places = [folder / section[1] for folder in folders if (folder / section[1]).is_dir()]
            known = ", ".join(sorted({path.stem for place in places for path in place.glob("*.yaml")}))
            where = " or ".join(map(str, places))
            raise ConfigError(key, repr(value), f"the name of a file in {where}, without .yaml: {known}")
        check_defaults(folders, name)


_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\n": r"\n", r"\\t": r"\t"}


def with_line_breaks(override: str) -> str:
    """`key="a\\nb"` with a line break, as in YAML: in double quotes \\n and \\t are escapes, in single quotes they are text.

    Hydra alone leaves both as they are. A backslash before an n in double quotes is written \\\\n.
    """

    def unescaped(match: re.Match[str]) -> str:
        if match[0].startswith("'"):
            return match[0]
        return re.sub(r"\\{1,2}[nt]", lambda found: _ESCAPES[found[0]], match[0])

    key, equals, value = override.partition("=")
    return key + equals + _QUOTED.sub(unescaped, value)


def _is_group(override: str, folders: Sequence[Path]) -> bool:
    """`cluster=dgx_h100` picks a file of a folder of configs/; `eval={...}` are settings, also beside a folder eval."""
    key, _, value = override.lstrip("+").partition("=")
    return not value.startswith("{") and any((folder / key).is_dir() for folder in folders)


def _refuse_folder(key: str, folders: Sequence[Path]) -> None:
    """Raises ConfigError for a folder of the name of a setting: Hydra would take the setting's value for one of its files."""
    place = next((folder / key for folder in folders if (folder / key).is_dir()), None)
    if place is not None and ("." in key or key in _SETTINGS):
        raise ConfigError(
            place, f"a folder with the name of the setting {key}, whose value would be taken for the name of a file in it",
            "folders of YAML files that are named like a section, such as cluster",
            "rename the folder, or keep the configs in a folder without it (--config-dir)",
        )  # fmt: skip


def _refuse_unreadable(override: str) -> None:
    """Raises ConfigError for a value that Hydra's grammar does not read, such as a path with a letter that is not ASCII."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, _, value = override.partition("=")
    try:
        if not OverridesParser.create().parse_override(override).is_sweep_override():
            return
    except (ValueError, RecursionError):  # it reads the text, and cannot make a number of it
        return
    except HydraException:
        pass
    item = value[1:-1] if value.startswith("[") and value.endswith("]") else ""
    quoted = f"""'{key}=["{item}"]'""" if item else f"""'{key}="{value}"'"""
    home = "; nobody expands ~ there: write $HOME, outside single quotes" if "~" in value else ""
    raise ConfigError(
        key, value if len(value) < 80 else value[:77] + "...", "a number, a word of ASCII letters, a list, or a text in quotes",
        f"quote each text that holds =, ~, commas, brackets or other signs, for the shell and for Hydra: {quoted}{home}",
    )  # fmt: skip


def _pick(override: str, groups: set[str]) -> str:
    """Hydra wants `+cluster=cpu` where neither the config nor its defaults name a cluster, and `cluster=cpu` where they do."""
    plain = override.lstrip("+")
    return plain if plain.split("=", 1)[0] in groups else f"+{plain}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@functools.cache
def _schema() -> Any:
    """The schema with its defaults. Made once: it takes longer than all else that `typed` does, and merging copies it."""
    from omegaconf import OmegaConf

    return OmegaConf.structured(Config)


def typed(loose: Any, where: str, describe: Describe | None = None) -> Config:
    """An OmegaConf tree as a checked Config. Raises ConfigError naming the key. `describe`: see `compose`."""
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

    refuse_conversions(OmegaConf.to_container(loose), where)
    try:
        cfg = OmegaConf.to_object(OmegaConf.merge(_schema(), loose))
    except InterpolationResolutionError as error:
        raise ConfigError(
            f"{where}: {error.full_key}", _first_line(error), "a value, or ${key} of another one"
        ) from error
    except OmegaConfBaseException as error:
        plain = OmegaConf.to_container(loose)
        raise type_error(plain, where, error.full_key or "", _first_line(error)) from error
    current: Config = current_words(cfg)
    check_fields(current)
    check_tiny_world(current)  # it would not read the path
    stated: Any = OmegaConf.to_container(loose)
    current = with_language(current, stated)
    if describe is not None and current.import_hf.path:
        found = describe(current.import_hf.path)
        if found is not None:
            current = with_imported(current, stated, found)
    check(current)
    return current


def as_yaml(cfg: Config) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(cfg))


def save_resolved_config(cfg: Config, run_dir: Path) -> None:
    """Writes the resolved config into the run directory, atomically."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(run_dir / RESOLVED_CONFIG, as_yaml(cfg))


def require_run(run_dir: Path) -> None:
    """Raises ConfigError when `run_dir` is not the directory of a run that was started."""
    if not (run_dir / RESOLVED_CONFIG).exists():
        raise ConfigError(run_dir / RESOLVED_CONFIG, "no such file", "the directory of a run that was started")


def _absent(data: Mapping[str, Any]) -> list[str]:
    """What the version that wrote this config.yaml has written, and the file lacks: it is empty, or was cut at a line's end."""
    newest = max((i for i, names in enumerate(_LATER) if any(name in data for name in names)), default=-1)
    optional = {name for names in _LATER[newest + 1 :] for name in names}
    return [name for name in _SECTIONS if name not in data and name not in optional]


def load_resolved_config(run_dir: Path) -> Config:
    """The config under which a run was started. Raises ConfigError when there is none, or a part of one."""
    from omegaconf import OmegaConf

    path = run_dir / RESOLVED_CONFIG
    require_run(run_dir)
    if absent := _absent(read_yaml(path)):
        raise ConfigError(
            path, f"no {', '.join(absent)}", "the whole file as the run was started with: what lacks would become defaults",
            "restore it, or remove it and repeat the command that started the run, which writes it again",
        )  # fmt: skip
    return typed(OmegaConf.load(path), str(path))
