"""The folders that ship with the project beside its code: configs/ (YAML and prompts) and slurm/ (job scripts).

In a checkout, also an editable one, they lie at the top of the repository, where users edit them. The build copies them
into the package (pyproject.toml), so that an installed wheel has them, too. Slurm jobs run a copy of all of it
(launch/slurm/snapshot.py), which says where it was made.
"""

import json
from importlib import resources
from pathlib import Path

PACKAGE = Path(str(resources.files("nemo_srlm"))).resolve()
SNAPSHOT = "snapshot.json"  # beside the package, in a copy: the commit, and the directory in which jobs work


def _folder(name: str) -> Path:
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name


CONFIGS = _folder("configs")
SLURM = _folder("slurm")


def job_directory() -> Path:
    """Where Slurm jobs work: the checkout, also where they import the package from a copy; with an installed package, the
    current directory, which is that of the submission.
    """
    if (PACKAGE.parent / SNAPSHOT).exists():
        return Path(json.loads((PACKAGE.parent / SNAPSHOT).read_text(encoding="utf-8"))["directory"])
    return Path.cwd() if SLURM.is_relative_to(PACKAGE) else PACKAGE.parent


def data_file(name: str) -> Path:
    """A data file that a setting names: as given, or where there is none, the one of that name in the configs folder."""
    path = Path(name)
    return path if path.exists() or not (CONFIGS / path).is_file() else CONFIGS / path
