"""What a worker meets on its node: folders for compiled code, memory that runs out, and the checks before the first work."""

import getpass
import os
from collections.abc import Mapping
from pathlib import Path

from nemo_srlm.config.schema import Config
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.stage import Kind
from nemo_srlm.errors import UserError
from nemo_srlm.launch.packages import check_packages
from nemo_srlm.stages import load

CACHES = {  # variable -> folder
    "TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "VLLM_CACHE_ROOT": "vllm", "FLASHINFER_WORKSPACE_BASE": "flashinfer", "CUDA_CACHE_PATH": "cuda",
}  # fmt: skip


def caches(folder: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Where compiled code is kept: on the node, in a folder of this user. Caches in home directories on NFS go stale, and lock.

    A variable that is set stays. {} where nothing can be written there, and without a folder.
    """
    if not folder:
        return {}
    own = Path(folder) / f"nemo-srlm-{getpass.getuser()}"
    try:
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        if own.stat().st_uid != os.getuid() or not os.access(own, os.W_OK):
            return {}
    except OSError:
        return {}
    return {name: str(own / place) for name, place in CACHES.items() if name not in environment}


def oom_kills(own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """How many processes the kernel has killed for memory in this process's control group and those around it (not the
    machine's). 0 where the system does not tell."""
    total = 0
    lines = own.read_text(encoding="utf-8").splitlines() if own.exists() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root if not controllers else root / "memory"
        name = "memory.oom_control" if controllers else "memory.events"
        place = top / path.lstrip("/")
        while place != top and place.is_relative_to(top):
            total += _count(place / name)
            place = place.parent
    return total


def _count(file: Path) -> int:
    try:
        rows = dict(line.split(None, 1) for line in file.read_text(encoding="utf-8").splitlines())
        return int(rows.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0


def check_node(cfg: Config, run_dir: Path, kind: Kind, gpus: int) -> None:
    """Raises UserError for what the stages of a kind that are not done would miss here: packages, files, GPUs."""
    refs = [ref for ref in pipeline(cfg) if load(ref.stage).kind == kind]
    check_packages(cfg, refs)
    for ref in refs:
        stage = load(ref.stage)
        stage.check(cfg)
        stage.identity(cfg, ref.iteration)  # reads templates and data files
    if not os.access(run_dir, os.W_OK):
        raise UserError(run_dir, "cannot be written on this node", "a file system that all nodes share")
    if gpus and kind in ("train", "generate"):
        import torch

        found = torch.cuda.device_count()
        if found < gpus:
            raise UserError(
                os.uname().nodename, f"PyTorch sees {found} GPUs", f"{gpus}, which the job has asked for",
                "check the driver, the image (cluster.KIND.image) and cluster.gpu_type",
            )  # fmt: skip
