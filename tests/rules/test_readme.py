"""The README's tree equals the repository, and its commands exist."""

import re
import subprocess
from pathlib import Path

import pytest

from nemo_srlm.cli import parser
from nemo_srlm.core.records import content_id

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tree() -> set[str]:
    """Paths in the README's tree: one per line, folders end with a slash, contents are indented by two."""
    block = re.search(r"```tree\n(.*?)```", README, re.S)
    assert block, "the README has a ```tree block"
    paths, stack = set(), [""]
    for line in block[1].splitlines():
        if not line.strip():
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        stack = stack[: depth + 1]
        paths.add(stack[-1] + name)
        if name.endswith("/"):
            stack.append(stack[-1] + name)
    return paths


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout: there is no list of files to compare with")
    return done.stdout.splitlines()


def test_everything_in_the_readme_tree_exists():
    assert [p for p in tree() if not (ROOT / p).exists()] == []


def test_every_folder_and_file_at_the_top_of_the_package_is_in_the_readme_tree():
    parts = [name.split("/") for name in tracked() if name.startswith("nemo_srlm/")]
    top = {f"nemo_srlm/{p[1]}{'/' if len(p) > 2 else ''}" for p in parts}
    assert top - tree() - {"nemo_srlm/__init__.py", "nemo_srlm/py.typed"} == set()


def test_every_make_target_in_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`?make ([a-z-]+)", README))
    assert targets
    assert {t for t in targets if not re.search(rf"^{t}:", makefile, re.M)} == set()


def test_the_id_of_the_readmes_show_is_that_of_a_prompt_of_the_demo():
    # an id is a hash of the text; the demo's first iteration writes this one (runs/tiny/iter1/prompts/prompts.jsonl)
    shown = re.search(r"^nemo-srlm show (\w+)", README, re.M)
    assert shown
    assert content_id("prompt", "Hello. What is the food of the goat?").startswith(shown[1])


def test_every_verb_in_the_readme_exists():
    verbs = set(re.findall(r"^nemo-srlm ([a-z_-]+)", README, re.M)) | set(re.findall(r"`nemo-srlm ([a-z_-]+)", README))
    known = set(re.findall(r"^    ([a-z_-]+)", parser().format_help(), re.M))
    assert verbs
    assert verbs - known == set()
