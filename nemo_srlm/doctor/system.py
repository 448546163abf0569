"""Checks of what lies below the project: the file system, torch on the GPU, Transformer Engine, communication."""

import json
import os
import sys
import time
from pathlib import Path

from nemo_srlm.core.process import tail
from nemo_srlm.doctor.check import Failed, Figures, Place, run_process
from nemo_srlm.errors import UserError
from nemo_srlm.launch.lock import locked

ROUNDS, COUNT = 5, 16 * 2**20  # all-reduces that are timed; float32 numbers of each
REDUCE = "nemo_srlm.doctor.reduce"


def files(place: Place) -> Figures:
    """A second lock must be refused; a file must survive its rename; how long a flushed write takes."""
    with locked(place.directory / "locked"):
        if not _refused(place.directory / "locked"):
            raise Failed(f"two processes hold the lock of {place.directory}: flock does nothing on this file system")
    began = time.monotonic()
    path = place.directory / "written"
    for number in range(10):
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as f:
            f.write(str(number))
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        if path.read_text(encoding="utf-8") != str(number):
            raise Failed(f"{path} does not hold what was renamed to it")
    return {"flushed write ms": round(100 * (time.monotonic() - began), 1)}


def _refused(directory: Path) -> bool:
    try:
        with locked(directory):
            return False
    except UserError:
        return True


def gpu(place: Place) -> Figures:
    shown, named = len(place.machine.gpus), place.machine.devices
    if shown < named:
        raise Failed(
            f"nvidia-smi shows {shown} of the {named} GPUs that /dev or CUDA_VISIBLE_DEVICES names: mend the driver (in a "
            "container: NVIDIA_DRIVER_CAPABILITIES=compute,utility), or hide the GPUs by CUDA_VISIBLE_DEVICES="
        )
    import torch

    if not torch.cuda.is_available():
        raise Failed(f"torch {torch.__version__} sees no GPU: install its CUDA build, or a driver that its CUDA needs")
    if torch.cuda.device_count() < len(place.machine.gpus):
        raise Failed(f"torch sees {torch.cuda.device_count()} of {len(place.machine.gpus)} GPUs")
    for index in range(torch.cuda.device_count()):
        a = torch.ones(1024, 1024, dtype=torch.bfloat16, device=f"cuda:{index}")
        if float((a @ a).float().mean()) != 1024.0:
            raise Failed(f"GPU {index} multiplies wrongly")
    return {"CUDA": str(torch.version.cuda), "GPUs": torch.cuda.device_count(), **_libraries()}


def _libraries() -> Figures:
    """As torch loads them: an image's own builds are no distributions of pip, which the inventory looks for."""
    import torch

    nccl = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return {"NCCL": ".".join(map(str, nccl)), "cuDNN": str(cudnn)}


def transformer_engine(place: Place) -> Figures:
    """Imported as training does it, after torch, whose libraries it needs."""
    log = place.directory / "import.log"
    if reason := run_process([sys.executable, "-c", "import torch, transformer_engine.pytorch"], log, 280):
        raise Failed(reason)
    return {}


def collective(place: Place) -> Figures:
    """All-reduce over NCCL or gloo, in as many processes as the training checks have."""
    answer, log = place.directory / "reduced.json", place.directory / "reduce.log"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(place.machine.processes),
        "-m", REDUCE, str(answer), str(ROUNDS), str(COUNT if place.machine.gpus else COUNT // 16),
    ]  # fmt: skip
    if reason := run_process(command, log, 150):
        raise Failed(reason)
    if not answer.exists():
        raise Failed(f"no answer; the end of its log:\n{tail(log)}")
    found: Figures = json.loads(answer.read_text(encoding="utf-8"))
    return found
