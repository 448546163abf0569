"""One process of the check `collective`, started by torchrun: `-m nemo_srlm.doctor.reduce ANSWER ROUNDS COUNT`."""

import datetime
import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist


def main() -> None:
    answer, rounds, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=datetime.timedelta(seconds=100))
    world = dist.get_world_size()
    values = torch.full((count,), float(dist.get_rank() + 1), device=device)
    dist.all_reduce(values)
    expected = world * (world + 1) / 2
    wrong = int((values != expected).sum())
    if wrong:
        raise SystemExit(f"all-reduce of {world} processes: {wrong} of {count} sums are not {expected}")
    began = _now(device)
    for _ in range(rounds):
        dist.all_reduce(values)
    seconds = (_now(device) - began) / rounds
    if dist.get_rank() == 0:
        # bus bandwidth as nccl-tests define it: 2 (n - 1) / n of the bytes, per second
        bandwidth = 2 * (world - 1) / world * values.nbytes / seconds / 1e9
        answer.write_text(
            json.dumps({"processes": world, "backend": dist.get_backend(), "bus GB/s": round(bandwidth, 2)}),
            encoding="utf-8",
        )  # fmt: skip
    dist.destroy_process_group()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
