"""The folders that ship with the project beside its code: configs/ (YAML and prompts) and slurm/ (job scripts).

In a checkout, also an editable one, they lie at the top of the repository, where users edit them. The build copies them
into the package (pyproject.toml), so that an installed wheel has them, too.
"""

from importlib import resources
from pathlib import Path

_PACKAGE = Path(str(resources.files("nemo_srlm"))).resolve()


def _folder(name: str) -> Path:
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


CONFIGS = _folder("configs")
SLURM = _folder("slurm")


def job_directory() -> Path:
    """Where Slurm jobs work: the checkout, from which they import the package; with an installed package, the current
    directory, which is that of the submission.
    """
    return Path.cwd() if SLURM.is_relative_to(_PACKAGE) else _PACKAGE.parent


def data_file(name: str) -> Path:
    """A data file that a setting names: as given, or where there is none, the one of that name in the configs folder."""
    path = Path(name)
    return path if path.exists() or not (CONFIGS / path).is_file() else CONFIGS / path
