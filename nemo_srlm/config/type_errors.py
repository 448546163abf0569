"""The message for a config that does not fit the schema: an unknown key, a value of the wrong type."""

import dataclasses
import functools
from typing import Any

from nemo_srlm.config.describe import Setting, settings
from nemo_srlm.errors import ConfigError

KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", list[str]: "a list of texts"}


def type_error(loose: Any, where: str, key: str, reason: str) -> ConfigError:
    """The error for plain data (dicts, lists, scalars) that OmegaConf could not merge into the schema.

    key: where OmegaConf found it; "" where it does not say. reason: its own words, for what neither key nor type explains.
    """
    if not isinstance(loose, dict):
        return ConfigError(where, _shown(loose), "sections and their settings (key: value)", _see(""))
    known = {s.key: s for s in settings()}
    key = key.split("[", maxsplit=1)[0] or next(
        (k for k, s in known.items() if not _has_shape(_value(loose, k), s)), ""
    )
    parent = key
    while parent and parent not in known:
        parent = parent.rpartition(".")[0]
    if not key or (parent != key and (not parent or _is_section(known[parent]))):
        beside = ", ".join(k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent)
        return ConfigError(_at(where, key), "no such setting" if key else reason, f"one of {beside}", _see(parent))
    return ConfigError(_at(where, parent), _shown(_value(loose, parent)), expected(known[parent]), _see(parent))


@functools.cache
def _scalars() -> tuple[Setting, ...]:
    return tuple(s for s in settings() if s.kind in _SWAPPED or s.kind in _ITEMS)


# What OmegaConf would convert without a word: `run.name=false` to the text False, 1.50 to 1.5, true to the number 1.
_SWAPPED = {str: (bool, float), int: (bool,), float: (bool,), bool: (int, float, str)}
# Of what a list may consist: OmegaConf takes lists and mappings in it.
_ITEMS = {list[str]: (str, int), list[int]: (int,)}
_SWITCH = ("true", "false")


def refuse_conversions(plain: Any, where: str) -> None:
    """Raises ConfigError where a scalar of one type stands in the place of another that it can be converted to, or where a
    value is missing (OmegaConf's ???)."""
    for setting in _scalars():
        value = _value(plain, setting.key)
        if value == "???":
            raise ConfigError(
                _at(where, setting.key), "???, which stands for a missing value", expected(setting), _see(setting.key)
            )
        if setting.kind in _ITEMS:
            bad = isinstance(value, list) and not all(_is_item(item, setting.kind) for item in value)
        else:
            bad = value is not _ABSENT and isinstance(value, _SWAPPED[setting.kind])
        if not bad:
            continue
        if setting.kind is bool and (isinstance(value, bool) or (isinstance(value, str) and _is_switch(value))):
            continue
        found, remedy = _shown(value), _see(setting.key)
        if setting.kind is str:  # 1.10 has become 1.1 already
            found = f"read as {'a switch' if isinstance(value, bool) else 'a number'}, {found}"
            remedy = f"put a text that looks like this in quotes, on the command line '{setting.key}=\"...\"'; {remedy}"
        raise ConfigError(_at(where, setting.key), found, expected(setting), remedy)


def _is_item(value: Any, kind: Any) -> bool:
    """Whether a list of this kind may hold it: also an interpolation, which is looked at when it is resolved."""
    return type(value) in _ITEMS[kind] or (isinstance(value, str) and "${" in value)


def _is_switch(text: str) -> bool:
    """`true` in quotes, or an interpolation, which is looked at when it is resolved."""
    return text.lower() in _SWITCH or "${" in text


def expected(setting: Setting) -> str:
    """Type and rule of a setting in words."""
    if _is_section(setting):
        return f"a section, whose settings are given one by one: {setting.key}.NAME=VALUE"
    kind, allowed = KINDS.get(setting.kind, "a mapping {name: value}"), setting.rule.allowed()
    whole = setting.kind in (float, list[int])
    if whole or setting.rule.choices or setting.rule.pattern:  # the rule's words include the type
        return allowed
    return f"{kind}, {allowed}" if allowed else kind


_ABSENT = object()


def _value(loose: Any, key: str) -> Any:
    """The value under a dotted key; _ABSENT where there is none."""
    for name in key.split("."):
        if not isinstance(loose, dict) or name not in loose:
            return _ABSENT
        loose = loose[name]
    return loose


def _has_shape(value: Any, setting: Setting) -> bool:
    """Whether a value is a dict, a list or a scalar as the setting's default is."""
    if value is _ABSENT:
        return True
    if _is_section(setting) or isinstance(setting.default, dict):
        return isinstance(value, dict)
    return isinstance(value, list) == isinstance(setting.default, list) and not isinstance(value, dict)


def _is_section(setting: Setting) -> bool:
    return dataclasses.is_dataclass(setting.kind)


def _shown(value: Any) -> str:
    """A value as it stands in YAML."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else repr(value)


def _at(where: str, key: str) -> str:
    return f"{where}: {key}" if key else where


def _see(key: str) -> str:
    return f"`nemo-srlm config --describe{' ' + key if key else ''}` explains {'it' if key else 'all settings'}"
