"""The text of `nemo-srlm config --describe`: every setting with type, default, allowed values and help."""

import dataclasses
import json
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from nemo_srlm.config.fields import Rule, rules
from nemo_srlm.config.schema import Config
from nemo_srlm.errors import ConfigError

WIDTH = 110


@dataclasses.dataclass(frozen=True)
class Setting:
    """One key of the config, or one section of it (`kind` is a dataclass then)."""

    key: str
    kind: Any
    default: Any
    rule: Rule

    def text(self) -> str:
        if dataclasses.is_dataclass(self.kind):
            return "\n" + textwrap.fill(f"[{self.key}] {' '.join((self.kind.__doc__ or '').split())}", WIDTH)
        name = self.kind.__name__ if isinstance(self.kind, type) and not typing.get_args(self.kind) else str(self.kind)
        facts = [self.rule.allowed(), "execution" if self.rule.execution else "identity"]
        lines = [f"{self.key}: {name} = {json.dumps(self.default, ensure_ascii=False)}", "; ".join(filter(None, facts))]
        lines += textwrap.wrap(self.rule.help, WIDTH - 4)
        return "\n    ".join(lines)


def settings(section: Any = None, prefix: str = "", execution: bool = False) -> Iterator[Setting]:
    """All settings in the order of the schema, each section before its fields. `execution`: the whole section is."""
    section = Config() if section is None else section
    kinds = typing.get_type_hints(type(section))
    for name, rule in rules(type(section)).items():
        default = getattr(section, name)
        own = dataclasses.replace(rule, execution=rule.execution or execution)
        yield Setting(prefix + name, kinds[name], default, own)
        if dataclasses.is_dataclass(default):
            yield from settings(default, f"{prefix}{name}.", own.execution)


def describe(key: str = "") -> str:
    """The text of one setting, of one section, or of all ("" ). Raises ConfigError for an unknown key."""
    found = [s for s in settings() if not key or s.key == key or s.key.startswith(key + ".")]
    if not found:
        sections = ", ".join(f.name for f in dataclasses.fields(Config))
        raise ConfigError("--describe", f"no setting {key!r}", f"one of {sections}, or a key in one of them")
    return "\n".join(s.text() for s in found).lstrip("\n")
