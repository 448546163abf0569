"""An interpreter that cannot run the package says so in one line, with exit code 2, whichever way it was started."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import nemo_srlm

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OLD = sorted(path for path in Path.home().glob(".pyenv/versions/3.*/bin/python") if path.is_file())
MODULES = {"hydra-core": "hydra", "pyyaml": "yaml"}  # where the module has another name than the distribution
ENTRIES = (
    ["-m", "nemo_srlm.cli", "plan"],
    ["-m", "nemo_srlm.cli", "status"],
    ["-m", "nemo_srlm.launch.slurm.step", "JOB"],
    ["-m", "nemo_srlm.launch.worker", "RUN", "iter1/judge"],
)


def answer(words: list[str], **env: str) -> tuple[int, str]:
    """Exit code and all output of a command in the checkout that finds no other package."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SLURM_JOB_ID")} | env
    done = subprocess.run(words, cwd=ROOT, env=clean, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def pretend(version: tuple[int, ...]) -> list[str]:
    """This interpreter under another version number, importing the command line."""
    return [sys.executable, "-c", f"import sys; sys.version_info = {version}; import nemo_srlm.cli"]


@pytest.mark.parametrize("version", [(3, 6, 8), (3, 9, 18), (3, 10, 13)])
def test_a_python_that_is_too_old_is_one_line(version: tuple[int, ...]):
    code, said = answer(pretend(version))
    assert code == 2
    assert len(said.splitlines()) == 1
    assert "expected 3.11 or later" in said
    assert "make venv-light" in said


@pytest.mark.parametrize("python", OLD, ids=lambda path: path.parts[-3])
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda words: " ".join(words[1:3]))
def test_a_real_old_python_answers_at_every_entry(python: Path, entry: list[str]):
    version = tuple(map(int, python.parts[-3].split(".")))
    if version >= (3, 11):
        pytest.skip("new enough")
    code, said = answer([str(python), *entry])
    assert (code, len(said.splitlines())) == (2, 1), said
    assert f"Python {python.parts[-3]}" in said


def test_iteration_sh_hands_on_the_answer_of_an_old_python():
    old = [path for path in OLD if tuple(map(int, path.parts[-3].split("."))) < (3, 11)]
    if not old:
        pytest.skip("no old Python under ~/.pyenv")
    code, said = answer(["bash", "slurm/iteration.sh", "--config-name", "tiny"], PYTHON=str(old[-1]))
    assert (code, len(said.splitlines())) == (2, 1), said


def test_iteration_sh_without_an_interpreter_says_what_to_run(tmp_path: Path):
    code, said = answer(["bash", "slurm/iteration.sh"], PYTHON=str(tmp_path / "python"))
    assert (code, len(said.splitlines())) == (2, 1), said
    assert "make venv-light" in said


def test_missing_light_packages_are_named_in_one_line():
    code, said = answer([sys.executable, "-S", "-m", "nemo_srlm.cli", "status"])  # -S: no site-packages
    assert (code, len(said.splitlines())) == (2, 1), said
    assert all(name in said for name in nemo_srlm._LIGHT)


def test_the_checked_packages_are_those_that_the_package_declares():
    names = [Requirement(line).name for line in PROJECT["dependencies"]]
    assert sorted(MODULES.get(name, name) for name in names) == sorted(nemo_srlm._LIGHT)
    assert PROJECT["requires-python"] == f">={'.'.join(map(str, nemo_srlm._OLDEST))}"
