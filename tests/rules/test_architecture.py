"""The structure, held by tests: who may import whom, what light commands may load, how long a file may be."""

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "nemo_srlm"
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "nemo", "vllm", "megatron", "transformers", "transformer_engine", "apex", "matplotlib", "datasets"}
MAX_LINES = 360


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def importers(module: str) -> set[str]:
    return {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if any(name == module or name.startswith(module + ".") for name in imports(path))
    }


@pytest.mark.parametrize("module", ["megatron", "nemo", "transformer_engine", "apex"])
def test_only_the_megatron_folder_imports_the_training_stack(module: str):
    assert {name for name in importers(module) if not name.startswith("megatron/")} == set()


def test_only_the_engine_imports_vllm():
    assert importers("vllm") <= {"engine.py"}


def test_the_trainer_knows_neither_store_nor_stages():
    for module in ("nemo_srlm.store", "nemo_srlm.stages"):
        assert {
            name for name in importers(module) if name.startswith("megatron/") and name != "megatron/main.py"
        } == set()


LAYERS = {  # file -> the project's own modules that it may know
    "errors.py": set(),
    "records.py": {"errors"},
    "config.py": {"cluster", "config_eval", "fields"},
    "config_eval.py": {"fields"},
    "settings.py": {"config", "errors"},
    "manifest.py": {"errors"},
    "stage.py": {"errors", "config", "settings", "manifest", "stages"},
    "store.py": {"errors", "manifest", "records", "stage"},
    "losses.py": {"config", "errors"},
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_core_depends_downwards_only(name: str):
    own = {m.split(".")[1] for m in imports(PACKAGE / name) if m.startswith("nemo_srlm.")}
    assert own <= LAYERS[name]


def test_light_commands_load_nothing_heavy_not_even_with_every_stage_declared():
    code = (
        "import sys, nemo_srlm.cli, nemo_srlm.status, nemo_srlm.local\n"
        "from nemo_srlm.stages import NAMES, load\n"
        "[load(n) for n in NAMES]\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_help_answers_within_a_second():
    """Processor time, the best of three: a busy machine does not fail it, a heavy import does."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "nemo_srlm.cli", "--help"], capture_output=True, cwd=ROOT, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(times) < 1.0


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_owns_one_thing_and_says_which(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text)), "a module docstring says what the file owns"
