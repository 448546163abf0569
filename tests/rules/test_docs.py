"""The documentation names only files, links and commands that exist, and the package only documents that do."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from nemo_srlm.cli import parser

ROOT = Path(__file__).resolve().parents[2]
DOCS = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(p for p in (ROOT / "README.md", ROOT / "CONTRIBUTING.md") if p.exists()),
]
FILES = [
    path.relative_to(ROOT).as_posix()
    for top in (
        *ROOT.glob("*.*"),
        *(ROOT / name for name in ("configs", "docs", "nemo_srlm", "slurm", "tests", "tools")),
    )
    for path in (top.rglob("*") if top.is_dir() else [top])
]
OTHERS = {"report.md"}  # files of a run directory, not of the repository
PATH = re.compile(r"[\w./<>*-]+\.(?:py|yaml|sh|txt|md)\b")
COMMAND = re.compile(r"nemo-srlm ([a-z_]+(?:-[a-z]+)*)([^`\n#]*)")
# ```tree (README) and ```python FILE (extending.md): test_readme.py and test_extending.py check these blocks
CHECKED = re.compile(r"^```(?:tree|\w+ (\S+))\n.*?^```$", re.S | re.M)


def text(path: Path) -> str:
    return CHECKED.sub("", path.read_text(encoding="utf-8"))


def created(path: Path) -> set[str]:
    """Files that the document's recipes create or change."""
    return set(CHECKED.findall(path.read_text(encoding="utf-8"))) - {""}


def exists(word: str, files: Iterable[str]) -> bool:
    """Whether the path of a file ends with `word`, in which * stands for any part of a name."""
    pattern = re.compile(r"(?:.*/)?" + re.escape(word.removeprefix("./")).replace(r"\*", "[^/]*"))
    return any(pattern.fullmatch(path) for path in files)


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_every_file_named_in_a_document_exists(path: Path):
    words = {word for word in PATH.findall(text(path)) if "<" not in word} - OTHERS
    assert sorted(word for word in words if not exists(word, [*FILES, *created(path)])) == []


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_every_relative_link_in_a_document_leads_to_a_file(path: Path):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text(path))
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_every_command_in_a_document_has_its_verb_and_options(path: Path, capsys: pytest.CaptureFixture[str]):
    new_stages = {Path(name).stem for name in created(path)}
    for verb, rest in COMMAND.findall(text(path)):
        if verb in new_stages:
            continue
        with pytest.raises(SystemExit) as ended:
            parser().parse_args([verb, "--help"])
        assert ended.value.code == 0, f"nemo-srlm {verb}"
        known = capsys.readouterr().out
        assert [option for option in re.findall(r"--[a-z-]+", rest) if option not in known] == []


def test_every_document_and_section_that_the_package_names_exists():
    """Error messages and docstrings say docs/NAME.md, or README and a section after a comma: (README, Eight GPUs)."""
    sections = re.findall(r"^#+ (.+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    missing = []
    for path in sorted((ROOT / "nemo_srlm").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        missing += [
            f"{path.name}: {name}" for name in re.findall(r"docs/[\w-]+\.md", source) if not (ROOT / name).exists()
        ]
        named = re.findall(r"README(?:\.md)?, \"?([A-Z][\w ]+)", source)
        missing += [f"{path.name}: README, {name}" for name in named if not any(s.startswith(name) for s in sections)]
    assert missing == []
