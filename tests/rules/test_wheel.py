"""The wheel: what it holds, and that its light commands work where nothing else is installed and no checkout is near.

Works offline: the dependencies come from the running environment as links, only those that the wheel declares, and theirs.
"""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def tracked() -> list[str]:
    """Files of the working tree that belong to the project."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in found if (ROOT / name).is_file()]


def pip(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout: building writes beside the sources."""
    copy = tmp_path_factory.mktemp("source")
    for name in tracked():
        if name.startswith(("nemo_srlm/", "configs/", "slurm/")) or name in ("pyproject.toml", "README.md", "LICENSE"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out), str(source))
    (found,) = out.glob("*.whl")
    return found


def needed(names: list[str]) -> set[str]:
    """These distributions and all that they require, by what the running environment has installed."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        for line in distribution(name).requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)
    return found


def environment(directory: Path, *more: str) -> Path:
    """A virtual environment with the declared dependencies only, and `more`. Returns its bin folder."""
    venv.create(directory, with_pip=False)
    (site,) = directory.glob("lib/python*/site-packages")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in needed([*(Requirement(line).name for line in project["dependencies"]), *more]):
        for file in distribution(name).files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    return directory / "bin"


def run(command: Path, *words: str, cwd: Path, code: int = 0) -> str:
    """Output of a command run without the checkout on Python's path and without Slurm on PATH."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PATH": str(command.parent)}
    done = subprocess.run([command, *words], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment in which the wheel is installed."""
    found = environment(tmp_path_factory.mktemp("installed"))
    pip("--python", str(found / "python"), "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    return found


def test_the_wheel_holds_every_file_of_the_package_and_the_shipped_folders(wheel: Path):
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = [name for name in tracked() if name.startswith("nemo_srlm/")]
    shipped = [f"nemo_srlm/{name}" for name in tracked() if name.startswith(("configs/", "slurm/"))]
    assert sorted({*package, *shipped, "nemo_srlm/py.typed"} - inside) == []
    assert {name.split("/")[0] for name in inside} == {"nemo_srlm", f"{wheel.name.split('-py3')[0]}.dist-info"}


def test_the_version_is_that_of_the_package(installed: Path, wheel: Path, tmp_path: Path):
    version = run(installed / "nemo-srlm", "--version", cwd=tmp_path).strip()
    assert wheel.name == f"nemo_srlm-{version}-py3-none-any.whl"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help"], "M0 -> M1 -> M2 -> M3"),
        (["config", "--config-name", "llama2_70b"], "virtual_pipeline: 5"),
        (["config", "--config-name", "tiny", "cluster=cpu"], "partition: cpu"),
        (["config", "--describe", "dpo.beta"], "dpo.beta: float = 0.1"),
        (["estimate", "--config-name", "llama2_70b"], "68,976,648,192 parameters"),
    ],
)
def test_light_commands_work_in_an_empty_directory(installed: Path, tmp_path: Path, words: list[str], said: str):
    assert said in run(installed / "nemo-srlm", *words, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_plan_shows_the_jobs_and_says_that_there_is_no_slurm(installed: Path, tmp_path: Path):
    text = run(installed / "nemo-srlm", "plan", "--config-name", "tiny", cwd=tmp_path)
    assert "jobs to submit" in text.splitlines()[0]  # the plan, and not what squeue says
    assert "Slurm does not answer here (squeue: no such command" in text
    assert "planned as if nothing were queued" in text
    assert "iter2-dpo" in text


def test_a_run_without_the_heavy_packages_says_which_are_missing_and_what_to_do(installed: Path, tmp_path: Path):
    said = run(installed / "nemo-srlm", "run", "--config-name", "tiny", cwd=tmp_path, code=2)
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert all(name in said for name in ("torch, megatron-core, nemo-toolkit[core]", "vllm", "`make venv`"))


def where(python: Path, cwd: Path) -> list[Path]:
    """Configs, Slurm scripts and the directory of jobs, as the package finds them; and a shipped template."""
    code = (
        "from nemo_srlm.config import shipped\nfrom nemo_srlm.data import templates\n"
        "print(shipped.CONFIGS, shipped.SLURM, shipped.job_directory(), templates.find('prompts/judge.txt'), sep='\\n')"
    )
    return [Path(line) for line in run(python, "-c", code, cwd=cwd).splitlines()]


def test_an_installed_package_finds_its_own_folders_and_jobs_work_where_they_were_submitted(
    installed: Path, tmp_path: Path
):
    configs, slurm, jobs, template = where(installed / "python", tmp_path)
    package = next(installed.parent.glob("lib/python*/site-packages")) / "nemo_srlm"
    assert (configs, slurm, jobs) == (package / "configs", package / "slurm", tmp_path)
    assert (slurm / "stage.sh").is_file()
    assert template == package / "configs/prompts/judge.txt"


def test_a_checkout_first_on_the_path_uses_its_own_folders_even_beside_an_installed_package(
    installed: Path, source: Path
):
    configs, slurm, jobs, template = where(installed / "python", source)  # `python -c` puts the current directory first
    assert (configs, slurm, jobs) == (source / "configs", source / "slurm", source)
    assert template == source / "configs/prompts/judge.txt"


def test_an_editable_install_uses_the_folders_of_its_checkout(source: Path, tmp_path: Path):
    found = environment(tmp_path / "editable", "setuptools")
    pip(
        "--python", str(found / "python"), "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
        "-e", str(source),
    )  # fmt: skip
    (tmp_path / "empty").mkdir()
    configs, slurm, jobs, _ = where(found / "python", tmp_path / "empty")
    assert (configs, slurm, jobs) == (source / "configs", source / "slurm", source)
    assert "virtual_pipeline: 5" in run(
        found / "nemo-srlm", "config", "--config-name", "llama2_70b", cwd=tmp_path / "empty"
    )
