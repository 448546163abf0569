"""Prompt templates: text files with `<NAME_HERE>` placeholders. Finding, checking and filling them.

A template's text (not its path) is part of a stage's identity. Placeholders are filled in one pass, so a filled-in text
that contains a placeholder's name is not changed. The final newline that editors add to a file is not part of the
template.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nemo_srlm.config.shipped import CONFIGS
from nemo_srlm.config.text_files import ENCODING
from nemo_srlm.errors import ConfigError

PLACEHOLDER = re.compile(r"<([A-Z]+(?:_[A-Z]+)*)_HERE>")
_LIKE_ONE = re.compile(
    r"<[^<>\n]*_HERE\s*>", re.IGNORECASE
)  # with a misspelt one the model would be asked about nothing

JUDGE = ("INSTRUCTION", "RESPONSE")
COMPARE = ("INSTRUCTION", "FIRST", "SECOND")
MODIFY = ("INSTRUCTION",)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # all but tab and line feed: open() has converted line ends
_SHOT = re.compile(r"<SHOT>(.*?)</SHOT>", re.DOTALL)


@dataclass(frozen=True)
class ShotTemplate:
    """A few-shot template: `head`, then `shot` once per demonstration, then `tail`, which the model continues.

    In the file the repeated part is between <SHOT> and </SHOT>. It contains <DEMONSTRATION_HERE> once and may contain
    <NUMBER_HERE> (1, 2, ...), as may the tail (number of demonstrations + 1).
    """

    head: str
    shot: str
    tail: str


def find(path: str) -> Path:
    """The file of `path`: absolute, or relative to the configs/ folder or to the current directory.

    Raises ConfigError when there is none, or when both folders have one and they are not the same file.
    """
    places = [Path(path)] if Path(path).is_absolute() else [CONFIGS / path, Path.cwd() / path]
    found = {place.resolve() for place in places if place.is_file()}
    if not found:
        raise ConfigError(path, "no such template file", "one of " + ", ".join(map(str, places)), "check the path")
    if len(found) > 1:
        raise ConfigError(path, f"two templates: {sorted(map(str, found))}", "one", "give an absolute path")
    return found.pop()


def read_text(path: str) -> str:
    """The template's text without its final newline. Raises ConfigError when it is missing, empty or no plain UTF-8."""
    file = find(path)
    try:
        text = file.read_text(encoding=ENCODING)
    except UnicodeDecodeError as error:
        raise ConfigError(file, f"not UTF-8 ({error})", "a text file in UTF-8") from error
    text = text.removesuffix("\n")
    if not text.strip():
        raise ConfigError(file, "an empty template", "text with placeholders such as <INSTRUCTION_HERE>")
    if found := _CONTROL.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ConfigError(
            f"{file}:{line}", f"a control character ({found[0]!r})", "text", "remove it from the template"
        )
    for found in _LIKE_ONE.finditer(text):
        if not PLACEHOLDER.fullmatch(found[0]):
            line = text.count("\n", 0, found.start()) + 1
            raise ConfigError(
                f"{file}:{line}", f"{found[0]!r}", "placeholders such as <INSTRUCTION_HERE>", "correct it"
            )
    return text


def check(text: str, names: Iterable[str], where: object) -> str:
    """`text`, when it has every placeholder of `names` exactly once and no other. Raises ConfigError otherwise."""
    wanted, found = sorted(names), sorted(PLACEHOLDER.findall(text))
    if wanted != found:
        raise ConfigError(
            where,
            f"placeholders {[f'<{name}_HERE>' for name in found]}",
            f"each of {[f'<{name}_HERE>' for name in wanted]} exactly once",
            "correct the template",
        )
    return text


def load(path: str, names: Iterable[str]) -> str:
    """Read and check a template, e.g. load(cfg.judge.template, templates.JUDGE)."""
    return check(read_text(path), names, path)


def fill(template: str, **values: str) -> str:
    """Put values into placeholders in one pass: fill(t, INSTRUCTION="...", RESPONSE="...")."""
    return PLACEHOLDER.sub(lambda match: values[match[1]], template)


def load_shots(path: str) -> ShotTemplate:
    """Read a few-shot template. Raises ConfigError for a wrong <SHOT> part or wrong placeholders."""
    text = read_text(path)
    parts = _SHOT.split(text)
    if len(parts) != 3:
        raise ConfigError(path, f"{len(parts) // 2} <SHOT>...</SHOT> parts", "exactly one", "correct the template")
    head, shot, tail = parts
    check(head, [], f"{path} (before <SHOT>)")
    check(shot.replace("<NUMBER_HERE>", ""), ["DEMONSTRATION"], f"{path} (inside <SHOT>)")
    check(tail.replace("<NUMBER_HERE>", ""), [], f"{path} (after </SHOT>)")
    return ShotTemplate(head, shot, tail)
