"""What a worker meets on its node: folders for compiled code, memory that runs out, and the checks before the first work."""

import getpass
import os
from collections.abc import Mapping
from pathlib import Path

from nemo_srlm.config.schema import Config
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.stage import Kind
from nemo_srlm.errors import PassingError
from nemo_srlm.launch.packages import check_packages
from nemo_srlm.stages import load

CACHES = {  # variable -> folder
    "TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "VLLM_CACHE_ROOT": "vllm", "FLASHINFER_WORKSPACE_BASE": "flashinfer", "CUDA_CACHE_PATH": "cuda",
}  # fmt: skip


ROOM = 2**30  # bytes free, less than which a node's disk is full


def caches(folder: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Where compiled code is kept: on the node, in a folder of this user. Caches in home directories on NFS go stale, and lock.

    A variable that is set stays. {} where nothing can be written there, or loaded from there (a /tmp mounted noexec), and
    without a folder.
    """
    if not folder:
        return {}
    own = Path(folder) / f"nemo-srlm-{getpass.getuser()}"
    try:
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        system = os.statvfs(own)
        usable = own.stat().st_uid == os.getuid() and os.access(own, os.W_OK) and not system.f_flag & os.ST_NOEXEC
        if not usable or system.f_bavail * system.f_frsize < ROOM:
            return {}
    except OSError:
        return {}
    return {name: str(own / place) for name, place in CACHES.items() if name not in environment}


def oom_kills(own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """How many processes the kernel has killed for memory in this process's control group and those around it, up to the job's
    (beyond are other jobs on the node). 0 where the system does not tell."""
    total = 0
    lines = own.read_text(encoding="utf-8").splitlines() if own.exists() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root if not controllers else root / "memory"
        name = "memory.oom_control" if controllers else "memory.events"
        parts = Path(path.lstrip("/")).parts
        job = next((i for i, part in enumerate(parts) if part.startswith("job_")), len(parts) - 1)
        total += sum(_count(top.joinpath(*parts[: i + 1], name)) for i in range(max(job, 0), len(parts)))
    return total


def _count(file: Path) -> int:
    try:
        rows = dict(line.split(None, 1) for line in file.read_text(encoding="utf-8").splitlines())
        return int(rows.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0


def check_node(cfg: Config, run_dir: Path, kind: Kind, gpus: int) -> None:
    """Raises UserError for what the stages of a kind that are not done would miss here: packages, files. Raises PassingError for
    what another node may have: the run's directory, all GPUs."""
    refs = [ref for ref in pipeline(cfg) if load(ref.stage).kind == kind]
    check_packages(cfg, refs)
    for ref in refs:
        stage = load(ref.stage)
        stage.check(cfg)
        stage.identity(cfg, ref.iteration)  # reads templates and data files
    if not os.access(run_dir, os.W_OK):
        raise PassingError(run_dir, "cannot be written on this node", "a file system that all nodes share")
    if gpus and kind in ("train", "generate"):
        import torch

        found = torch.cuda.device_count()
        if found < gpus:
            raise PassingError(
                os.uname().nodename, f"PyTorch sees {found} GPUs", f"{gpus}, which the job has asked for",
                "check the driver, the image (cluster.KIND.image) and cluster.gpu_type",
            )  # fmt: skip
