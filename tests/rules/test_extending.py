"""docs/extending.md is true: every recipe, applied to a copy of the repository, passes its own test and the rules."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COPIED = ("nemo_srlm", "configs", "slurm", "tests", "tools", "pyproject.toml")


@dataclass(frozen=True)
class Block:
    """A fenced block of a recipe: a whole file, or (kind `diff`) lines to replace in one."""

    kind: str
    path: str
    text: str


RECIPES = {
    title: [Block(*found) for found in BLOCK.findall(body)]
    for title, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}


def apply(block: Block, root: Path) -> None:
    path = root / block.path
    if block.kind != "diff":
        assert not path.exists(), f"{block.path} is there already: change the recipe's example"
        path.write_text(block.text, encoding="utf-8")
        return
    lines = [(line[:1], line[1:]) for line in block.text.splitlines()]
    old = "\n".join(text for sign, text in lines if sign in " -")
    new = "\n".join(text for sign, text in lines if sign in " +")
    before = path.read_text(encoding="utf-8")
    assert before.count(old) == 1, f"{block.path} holds these lines {before.count(old)} times:\n{old}"
    path.write_text(before.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_works_as_written(title: str, tmp_path: Path):
    blocks = RECIPES[title]
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, tmp_path / name)
    for block in blocks:
        apply(block, tmp_path)
    tests = [block.path for block in blocks if block.path.startswith("tests/")]
    assert len(tests) == 1
    rules = ["tests/rules/test_architecture.py", "tests/rules/test_configs.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, *rules]
    env = os.environ | {"PYTHONPATH": str(tmp_path), "PYTEST_ADDOPTS": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_the_page_has_the_five_recipes_that_it_promises():
    assert list(RECIPES) == ["A loss", "A stage", "A model family", "A language", "A launcher"]


def test_the_table_counts_the_files_of_each_recipe():
    """The files outside tests/ that a recipe touches are those that the table at the top names."""
    rows = dict(re.findall(r"^\| \[(.+?)\]\(.*?\) \| (.+?) \| 1 \|$", PAGE, re.MULTILINE))
    touched = {t: {b.path for b in blocks if not b.path.startswith("tests/")} for t, blocks in RECIPES.items()}
    counts = {title.lower(): len(paths) for title, paths in touched.items()}
    assert counts == {"a loss": 2, "a stage": 2, "a model family": 3, "a language": 4, "a launcher": 2}
    assert {title.lower() for title in RECIPES} == set(rows)
