"""Every setting of the schema with values that it cannot hold."""

import dataclasses
from collections.abc import Iterator
from functools import partial

from nemo_srlm.config.describe import Setting
from nemo_srlm.config.describe import settings as described
from tools.bench.inputs.case import ACCEPTED, Case, settings

NUMBERS = {
    "nan": "nan",
    "inf": "inf",
    "-inf": "-inf",
    "negative": "-1.0e3",
    "huge": "1e300",
    "text": "Unsinn",
    "empty": "''",
    "null": "null",
    "list": "[1]",
    "mapping": "{a: 1}",
    "switch": "true",
    "missing": "'???'",
}
WHOLE = {"negative": "-1000", "huge": "1" + "0" * 30, "beyond": "2147483648", "digits": "9" * 5000, "half": "0.5"}
SWITCHES = {
    "word": "Unsinn",
    "empty": "''",
    "null": "null",
    "list": "[true]",
    "mapping": "{a: true}",
    "two": "2",
    "real": "0.0",
}
CHOICES = {
    "word": "Unsinn",
    "null": "null",
    "list": "[x]",
    "mapping": "{a: b}",
    "switch": "true",
    "nan": "nan",
    "NUL": "'a\0b'",
}
TEXTS = {
    "null": "null",
    "list": "[x]",
    "mapping": "{a: b}",
    "switch": "false",
    "real": "1.50",
    "NUL": "'a\0b'",
    "half a pair": "'\ud800'",
    "interpolation": "'${nowhere}'",
    "cycle": "SELF",
}
NAMES = {
    "blank behind": "'x '",
    "blank before": "' x'",
    "line break": "'a\nb'",
    "escape": "'\x1b[31m'",
    "bell": "'a\ab'",
}
LISTS = {
    "word": "Unsinn",
    "null": "null",
    "mapping": "{a: b}",
    "null inside": "[null]",
    "list inside": "[[x]]",
    "empty inside": "['']",
    "mapping inside": "[{a: b}]",
    "number": "3",
}
MAPPINGS = {
    "word": "Unsinn",
    "list": "[1]",
    "nan inside": "{factor: nan}",
    "inf inside": "{factor: inf}",
    "number": "3",
}


def _values(setting: Setting) -> dict[str, str]:
    kind, rule = setting.kind, setting.rule
    if kind is float:
        return NUMBERS
    if kind is int:
        return NUMBERS | WHOLE
    if kind is bool:
        return SWITCHES
    if kind is str:
        blanks = {"blank": f"'{setting.default} '", "capitals": f"'{str(setting.default).upper()}X'"}
        if rule.choices:
            return CHOICES | blanks
        return TEXTS | ({} if rule.free else NAMES)
    return LISTS if isinstance(setting.default, list) else MAPPINGS


def _forms(key: str, value: str) -> str:
    return f"{key}=${{{key}}}" if value == "SELF" else f"{key}={value}"


def cases() -> Iterator[Case]:
    for setting in described():
        key = setting.key
        if dataclasses.is_dataclass(setting.kind):
            for name, value in {"number": "3", "null": "null", "list": "[1]", "unknown key": "{Unsinn: 1}"}.items():
                yield Case("settings: sections", f"{key}: {name}", partial(settings, f"{key}={value}"))
            yield Case("settings: sections", f"{key}.Unsinn", partial(settings, f"{key}.Unsinn=1"))
            continue
        for name, value in _values(setting).items():
            kind = getattr(setting.kind, "__name__", str(setting.kind))
            yield Case(f"settings: {kind}", f"{key}: {name}", partial(settings, _forms(key, value)))
    for words in (
        "dpo.beta=0.2",
        "iterations=4",
        "run.name=beta02",
        "prompts.starts=[a, b]",
        "eval.kl=true",
        "model.rope_scaling={}",
    ):
        yield Case("settings: good", words, partial(settings, words), ACCEPTED)
