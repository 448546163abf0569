"""A run on a disk that is really full, or below a limit on the size of files: one message, and the same command goes on."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMITED = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=400k", "none", str(tmp_path)]
    if os.getuid() or not mount or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def nemo_srlm(*words: str, limited: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nemo_srlm.cli", *words]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=LIMITED if limited else None
    )


def world(root: Path) -> list[str]:
    """The first stage of the tiny loop, whose corpus is larger than either limit."""
    return [
        "run",
        "--config-name",
        "tiny",
        f"run.root={root}",
        "run.name=r",
        "world.num_documents=1000",
        "--until",
        "world",
    ]


def test_a_full_disk_is_named_by_the_run_and_by_status_and_the_run_goes_on_when_there_is_room(small_disk: Path):
    run = nemo_srlm(*world(small_disk))
    assert run.returncode == 2
    assert "the disk is full (0.0 MiB free); expected a writable directory with free space" in run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    shown = nemo_srlm("status", str(small_disk / "r"))
    assert shown.returncode == 0
    assert "the disk is full" in " ".join(shown.stdout.split())
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert nemo_srlm(*world(small_disk)).returncode == 0
    assert "the disk is full" not in " ".join(nemo_srlm("status", str(small_disk / "r")).stdout.split())


def test_a_limit_on_the_size_of_files_is_named_with_what_raises_it(tmp_path: Path):
    run = nemo_srlm(*world(tmp_path), limited=True)
    assert run.returncode == 2
    assert (
        "corpus.jsonl: File too large; expected files below the limit on their size; raise it with `ulimit -f"
        in run.stderr
    )
    shown = nemo_srlm("status", str(tmp_path / "r"))
    assert "File too large" in " ".join(shown.stdout.split())
