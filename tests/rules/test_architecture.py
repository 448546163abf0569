"""Rules of the package structure: which modules may import which, what light commands may load, how long a file may be."""

import ast
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "nemo_srlm"
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(p for folder in ("tests", "tools") for p in (ROOT / folder).rglob("*.py") if p.stat().st_size)
HEAVY = {"torch", "nemo", "vllm", "megatron", "transformers", "transformer_engine", "apex", "matplotlib", "datasets"}
MAX_LINES = 350


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere, as dotted names."""
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


# Top to bottom: a room imports from itself and from the rooms above it. data and tiny_world do not import each other.
ROOMS = (
    "errors", "config", "core", "data", "tiny_world", "generate", "judge", "train", "convert", "evaluate", "report",
    "stages", "launch", "doctor", "cli",
)  # fmt: skip
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


def room(module: str) -> str:
    """`nemo_srlm.core.stage` -> `core`; `nemo_srlm` -> "" (the package itself is in no room)."""
    return module.removeprefix("nemo_srlm").removeprefix(".").partition(".")[0]


def own_imports(module: str) -> set[str]:
    """The project's modules that a module imports anywhere, also inside functions and only for types."""
    found = set()
    for name in imports(MODULES[module]):
        parts = name.split(".")
        known = [".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in MODULES]
        found |= set(known[:1])
    # `from nemo_srlm.core import stage` also names the package nemo_srlm.core, which does not count as an import
    return {n for n in found if n != module and not any(other.startswith(n + ".") for other in found)} - {"nemo_srlm"}


def test_every_module_lies_in_a_room():
    assert {room(module) for module in MODULES} - {""} <= set(ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str):
    above = ROOMS[: ROOMS.index(room(module)) + 1] if room(module) else ("",)
    beside = {"data": {"tiny_world"}, "tiny_world": {"data"}}.get(room(module), set())
    assert {name for name in own_imports(module) if room(name) not in set(above) - beside} == set()


def test_a_stage_imports_no_other_stage():
    """Code that several stages share is in stages/common."""
    stages = {name for name in MODULES if name.startswith("nemo_srlm.stages.") and ".common" not in name}
    assert {name: found for name in MODULES if (found := own_imports(name) & stages)} == {}


def test_the_tiny_worlds_switch_is_read_in_the_pipeline_and_in_its_own_room_alone():
    """Other stages look at their inputs, or call a function of these files."""
    readers = {
        room_path(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node).endswith("world.enabled")
    }
    assert readers == {"core/pipeline.py", "config/checks.py", "tiny_world/held_out.py"}


def test_the_import_graph_has_no_circle():
    left = {module: own_imports(module) for module in MODULES}
    while free := {module for module, needs in left.items() if not needs & left.keys()}:
        left = {module: needs for module, needs in left.items() if module not in free}
    assert left == {}, "these import each other"


def test_a_package_holds_a_docstring_alone():
    """Code in an __init__.py runs before every module beside it: a circle that the import graph does not show."""
    packages = [path for path in FILES if path.name == "__init__.py" and path.parent != PACKAGE]
    with_code = {room_path(path) for path in packages if len(ast.parse(path.read_text("utf-8")).body) > 1}
    assert with_code == {"stages/__init__.py"}  # `load`, which imports nothing of the stages itself


def test_modules_are_imported_by_name_in_one_place_alone():
    """The tests above do not see imports by name. Only stages/__init__.py has them, to load a stage by its name."""
    by_name = re.compile(r"import_module|__import__|runpy")
    assert {room_path(path) for path in FILES if by_name.search(path.read_text("utf-8"))} == {"stages/__init__.py"}


def room_path(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("module", ["megatron", "nemo", "transformer_engine", "apex"])
def test_only_the_megatron_folder_imports_the_training_stack(module: str):
    assert {name for name in importers(module) if not name.startswith("train/megatron/")} == set()


def test_only_the_engine_imports_vllm():
    assert importers("vllm") <= {"generate/vllm_engine.py", "generate/vllm_process.py"}


def test_the_trainer_reads_no_records_and_knows_no_stage():
    for module in ("nemo_srlm.core.files", "nemo_srlm.core.parts", "nemo_srlm.core.stage", "nemo_srlm.core.pipeline"):
        assert {name for name in importers(module) if name.startswith("train/megatron/")} == set()


def test_light_commands_load_nothing_heavy_not_even_with_every_stage_declared():
    code = (
        "import sys, nemo_srlm.cli, nemo_srlm.launch.local, nemo_srlm.launch.slurm.status\n"
        "from nemo_srlm.core.pipeline import NAMES\n"
        "from nemo_srlm.stages import load\n"
        "[load(n) for n in NAMES]\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_help_answers_within_a_second():
    """CPU time, the best of three: a busy machine does not fail this test, a heavy import does."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "nemo_srlm.cli", "--help"], capture_output=True, cwd=ROOT, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(times) < 1.0


@pytest.mark.parametrize("path", FILES + SCRIPTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_owns_one_thing_and_says_which(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text)), "a module docstring says what the file owns"


def test_only_the_terminal_module_prints():
    """What is printed may come from a model or a file: core/terminal.py shows its control characters. The package's own
    `__init__` prints before it can import anything."""
    printing = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "Console")
    }
    assert printing == {"__init__.py", "core/terminal.py"}


def test_a_tool_finds_the_other_tools_from_any_directory():
    """`python tools/bench/x.py` has its own folder on the path, not the repository: an import of a neighbour ends it."""
    lost = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tools").rglob("*.py"))
        if "__main__" in (text := path.read_text(encoding="utf-8"))
        and re.search(r"^from (tools|tests)\b", text, re.M)
        and "sys.path.insert" not in text
    ]
    assert lost == []
