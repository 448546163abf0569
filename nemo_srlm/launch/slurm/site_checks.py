"""What a submission can see of a site before its jobs queue: images, mounts, interpreters, inputs that no container mounts.

Without this, a setting that was forgotten shows in the first job of every kind, and again in the next submission.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nemo_srlm.config.cluster import JobSection
from nemo_srlm.config.method_checks import gpu_settings
from nemo_srlm.config.schema import Config
from nemo_srlm.config.shipped import job_directory
from nemo_srlm.errors import ConfigError, raise_all
from nemo_srlm.launch.gpus import gpus_of_shard
from nemo_srlm.launch.slurm import sbatch
from nemo_srlm.launch.slurm.jobs import Job

IMAGE_FILES = (".sif", ".sqsh", ".img")
ELSEWHERE = "where only the nodes have it: cluster.check_paths=false"


def image_of(cfg: Config, own: JobSection) -> str:
    """The image of a kind of job; "" without a container."""
    image = own.image or cfg.cluster.image
    return "" if image == "none" else image


def mounts_of(cfg: Config, own: JobSection) -> list[tuple[str, str]]:
    """(path on the node, path in the container) of what the config mounts."""
    parts = [mount.split(":") for mount in (*cfg.cluster.mounts, *own.mounts)]
    return [(part[0], part[1] if len(part) > 1 else part[0]) for part in parts]


def within(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def absent_files(cfg: Config, kind: str, own: JobSection) -> Iterator[ConfigError]:
    """Files that the jobs of a kind start with and that are not here."""
    site, image, mounts = cfg.cluster, image_of(cfg, own), mounts_of(cfg, own)
    if (image.startswith("/") or image.endswith(IMAGE_FILES)) and not Path(image).exists():
        key = f"cluster.{kind}.image" if own.image else "cluster.image"
        yield ConfigError(key, f"{image}: no such file", "an image", f"docs/install.md makes them; {ELSEWHERE}")
    for outside, _ in mounts if image else ():
        if not Path(outside).exists():
            yield ConfigError(f"cluster.{kind}.mounts", f"{outside}: no such file or folder", "FROM:TO", ELSEWHERE)
    python = own.python or site.python
    if not python.startswith("/"):
        return
    key = f"cluster.{kind}.python" if own.python else "cluster.python"
    # in a container: where its mount comes from; the image's own interpreters cannot be seen
    places = [outside + python.removeprefix(inside) for outside, inside in mounts if within(python, inside)]
    for place in places[-1:] if image else [python]:
        if not os.path.lexists(place):  # a link may lead to an interpreter of the image
            yield ConfigError(key, f"{place}: no such file", "an interpreter", f"docs/install.md; {ELSEWHERE}")


def paths(section: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """(setting, absolute path) of every path in a config that exists here. Relative ones are below the folder of the jobs."""
    for field in dataclasses.fields(section):
        value, key = getattr(section, field.name), f"{where}.{field.name}" if where else field.name
        if dataclasses.is_dataclass(value):
            yield from paths(value, key)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and "/" in text and os.path.exists(text):
                yield key, os.path.normpath(job_directory() / text)


def unmounted_inputs(cfg: Config, run_dir: Path, kinds: list[JobSection]) -> Iterator[ConfigError]:
    """Inputs outside every mount, where all these kinds of jobs run in containers."""
    if not all(image_of(cfg, own) for own in kinds):
        return
    seen = [inside for own in kinds for _, inside in mounts_of(cfg, own)]
    seen += [str(job_directory()), str(run_dir.resolve())]
    for key, path in paths(cfg):
        # the run directory is mounted; what the section cluster names is no input
        if key != "run.root" and not key.startswith("cluster.") and not any(within(path, folder) for folder in seen):
            yield ConfigError(
                key, f"{path} lies outside every mount", "a path that containers see", "add it to cluster.mounts"
            )


def too_few_gpus(cfg: Config, jobs: Sequence[Job]) -> Iterator[ConfigError]:
    """A training with more processes on a node than its job has GPUs there: NCCL refuses two on one GPU."""
    wanted = cfg.parallel.processes
    for job in jobs:
        gpus = sbatch.num_gpus(cfg, job)
        if job.kind == "train" and job.role == "work" and 0 < gpus < wanted:
            yield ConfigError(
                "parallel.processes", f"{wanted} on a node, of which a job of cluster.train gets {gpus} GPUs",
                "a GPU for every process", f"set parallel.processes={gpus} and parallel.nodes for as many processes in all",
            )  # fmt: skip


def problems(cfg: Config, run_dir: Path, jobs: Sequence[Job]) -> list[ConfigError]:
    """Everything found, each once. With cluster.check_paths=false no paths are looked for."""
    used = {job.kind: sbatch.section(cfg, job) for job in jobs if job.role == "work"}
    found = list(too_few_gpus(cfg, jobs))
    if cfg.cluster.check_paths:
        found += [error for kind, own in used.items() for error in absent_files(cfg, kind, own)]
        found += unmounted_inputs(cfg, run_dir, list(used.values()))
    return list({str(error): error for error in found}.values())


def refuse_problems(cfg: Config, run_dir: Path, jobs: Sequence[Job]) -> None:
    """Raises all of them."""
    raise_all(run_dir, problems(cfg, run_dir, jobs), "its jobs would not start:")


def notes(cfg: Config, jobs: Sequence[Job]) -> list[str]:
    """What a site may mean otherwise, and what cannot be refused for that: jobs that ask for no GPU, jobs that leave their CPUs
    to Slurm's default."""
    return [*_without_gpus(cfg, jobs), *_without_cpus(cfg, jobs)]


def _without_gpus(cfg: Config, jobs: Sequence[Job]) -> list[str]:
    """Jobs that ask for no GPU although settings need one, or although no profile says that the site has none. No mistake
    where whole nodes are given with their GPUs."""
    work = [job for job in jobs if job.role == "work" and sbatch.section(cfg, job).gpus < 0]
    work = [job for job in work if job.kind == "train" or any(gpus_of_shard(ref, cfg) for ref in job.refs)]
    kinds = sorted({job.kind for job in work if not _flags(cfg, job.kind, "--gpus", "-G")})
    if cfg.cluster.gpus_per_node or not kinds:
        return []
    needed = gpu_settings(cfg) if "train" in kinds else []
    if "generate" in kinds and cfg.generate.quantization:
        needed.append(f"generate.quantization={cfg.generate.quantization}")
    chosen = cfg.cluster.partition or any(getattr(cfg.cluster, kind).partition for kind in kinds)
    if chosen and not needed:
        return []
    why = f"{', '.join(needed)} {'need' if len(needed) > 1 else 'needs'} one" if needed else "they compute on CPUs"
    return [
        f"{', '.join(f'cluster.{kind}' for kind in kinds)}: the jobs ask for no GPU, as cluster.gpus_per_node is 0: {why}; "
        "for GPUs set cluster=PROFILE, such as cluster=dgx_h100 or your own (docs/sites.md), or cluster.gpus_per_node"
    ]


def _flags(cfg: Config, kind: str, *beginnings: str) -> bool:
    """Whether more sbatch flags of a kind of jobs begin with one of these."""
    return any(word.startswith(beginnings) for word in (*cfg.cluster.flags, *getattr(cfg.cluster, kind).flags))


def _without_cpus(cfg: Config, jobs: Sequence[Job]) -> list[str]:
    left = []
    for kind in sorted({job.kind for job in jobs if job.role == "work"}):
        own: JobSection = getattr(cfg.cluster, kind)
        if not (own.cpus or own.exclusive or _flags(cfg, kind, "--cpus-per-")):
            left.append(f"cluster.{kind}")
    return [
        f"{', '.join(left)}: neither cpus nor exclusive is set, so a task has as many CPUs as the site gives by default, at most "
        "sites one, for all its processes"
    ] if left else []  # fmt: skip
