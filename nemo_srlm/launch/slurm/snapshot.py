"""The code that jobs run: a copy of the package, its configs and scripts in the run directory, as it was at submission.

Jobs wait for days; a `git pull` in the checkout, or an edit, must not change what they do, nor mix two versions in a run.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nemo_srlm.config.schema import Config
from nemo_srlm.config.shipped import CONFIGS, PACKAGE, SLURM, SNAPSHOT, job_directory
from nemo_srlm.core.manifest import commit
from nemo_srlm.launch.slurm.jobs import FOLDER

CODE = "code"  # in the run directory's folder of jobs


def sources() -> Iterator[tuple[Path, str]]:
    """(file, its place in the copy)."""
    for folder in (PACKAGE, *(other for other in (CONFIGS, SLURM) if not other.is_relative_to(PACKAGE))):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path, f"{folder.name}/{path.relative_to(folder).as_posix()}"


def digest() -> str:
    found = hashlib.sha256()
    for path, place in sources():
        found.update(f"{place}\0{path.stat().st_size}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def code_of(cfg: Config, run_dir: Path) -> Path:
    """The folder from which the jobs of a submission import the package, made where it is not there yet.

    A supervisor that runs a copy submits with the same one.
    """
    if (PACKAGE.parent / SNAPSHOT).exists():
        return PACKAGE.parent
    if not cfg.cluster.snapshot:
        return job_directory()
    folder = run_dir.resolve() / FOLDER / CODE
    target = folder / digest()
    if target.exists():
        for path, place in sources():
            if not (target / place).exists():  # a purge of scratch takes files one by one
                (target / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / place)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder, prefix=".new-"))
    for path, place in sources():
        (made / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, made / place)
    (made / SNAPSHOT).write_text(json.dumps({"commit": commit(), "directory": str(job_directory())}), encoding="utf-8")
    made.chmod(0o755)
    os.rename(made, target)
    return target
