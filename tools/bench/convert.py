"""Benchmark of conversion on synthetic Llama weights: memory and speed of import and export against `cp` of the same bytes.

    tools/bench/convert.py [--sizes 1B 3B 7B] [--dir DIR] [--processes N] [--quick]

For each size: write a model to DIR, import it, export it, check that the round trip is exact, copy it with `cp`, remove
everything. Before each timed step the files are flushed and dropped from the page cache; each timed step ends when its
output is on the disk. So every step reads and writes the disk. Peak memory is that of the converting process (VmHWM);
its CPU seconds include starting Python and torch.
"""

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert.families import table
from nemo_srlm.convert.mapping import HfTensor

SHAPES = {  # layers, hidden, ffn, heads, groups, vocabulary
    "0.1B": ModelSection(num_layers=12, hidden_size=768, ffn_hidden_size=2048, num_attention_heads=12, num_query_groups=4),
    "1B": ModelSection(num_layers=16, hidden_size=2048, ffn_hidden_size=8192, num_attention_heads=32, num_query_groups=8,
                       vocab_size=128256, tie_embeddings=True),
    "3B": ModelSection(num_layers=28, hidden_size=3072, ffn_hidden_size=8192, num_attention_heads=24, num_query_groups=8,
                       vocab_size=128256, tie_embeddings=True),
    "7B": ModelSection(num_layers=32, hidden_size=4096, ffn_hidden_size=11008, num_attention_heads=32, num_query_groups=32),
    "70B": ModelSection(),
}  # fmt: skip
LIMIT = 2 * 2**30  # peak memory allowed in addition to the largest tensor, bytes
CP_SHARE = 0.7  # required throughput as a share of cp's


def num_bytes(model: ModelSection) -> int:
    return 2 * table.num_parameters(model)


def largest_tensor(model: ModelSection) -> int:
    return 2 * max(math.prod(tensor.shape) for tensor in table.megatron_tensors(model))


def make(directory: Path, model: ModelSection) -> None:
    """Writes random bf16 weights of the model's shapes; holds one block of them in memory."""
    import torch

    from nemo_srlm.convert import hf_config, safetensors_files

    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(hf_config.render(model, "bf16", {})))
    block = (torch.randn(2**24) * 0.02).bfloat16()
    shards: list[list[HfTensor]] = [[]]
    for tensor in table.hf_tensors(model):
        if sum(2 * math.prod(t.shape) for t in shards[-1]) > 4e9:
            shards.append([])
        shards[-1].append(tensor)
    weight_map: dict[str, str] = {}
    for i, tensors in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        with safetensors_files.Writer(directory / name, [(t.name, t.shape) for t in tensors], torch.bfloat16) as writer:
            for number, tensor in enumerate(tensors):
                left = math.prod(tensor.shape)
                shift = (number * 7919) % 1000  # so that tensors differ
                while left:
                    piece = block[shift : shift + min(left, block.numel() - shift)]
                    writer.append(piece)
                    left -= piece.numel()
                weight_map[tensor.name] = name
    index = {"metadata": {"total_size": num_bytes(model)}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def sync_files(directory: Path) -> None:
    """Flushes the files of a directory and drops them from the page cache."""
    for path in directory.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def child(step: str, root: Path, size: str, processes: int) -> None:
    """Runs one measured step in its own process; prints JSON."""
    from nemo_srlm.convert.export_hf import export_hf
    from nemo_srlm.convert.import_hf import import_hf
    from nemo_srlm.convert.verify import round_trip

    model, start = SHAPES[size], time.perf_counter()
    if step == "make":
        make(root / "hf", model)
    elif step == "import":
        import_hf(root / "hf", root / "mg", processes=processes)
    elif step == "export":
        export_hf(root / "mg", root / "back", model, processes=processes)
    elif step == "round trip":
        found = round_trip(root / "hf", root / "mg", model)
        assert not found["different"]
        assert not round_trip(root / "back", root / "mg", model)["different"]
    status = Path("/proc/self/status").read_text()
    peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime
    print(json.dumps({"seconds": time.perf_counter() - start, "cpu": cpu, "peak": peak}))


def run(step: str, root: Path, size: str, processes: int) -> dict[str, Any]:
    command = [
        sys.executable,
        __file__,
        "--child",
        step,
        "--dir",
        str(root),
        "--sizes",
        size,
        "--processes",
        str(processes),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def copy(source: Path, target: Path) -> tuple[float, float]:
    """(seconds, CPU seconds) of `cp` until the copy is on the disk."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    for path in target.iterdir():
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu


def measure(size: str, root: Path, processes: int, repeats: int) -> dict[str, Any]:
    """One row of the table. Times are the best of `repeats`; the steps alternate, so that other disk load affects all equally."""
    model, root = SHAPES[size], root / f"convert-{size}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    total = num_bytes(model)
    row: dict[str, Any] = {"size": size, "GB": total / 1e9, "largest MiB": largest_tensor(model) / 2**20}
    times: dict[str, list[float]] = {"cp": [], "import": [], "export": []}
    cpu: dict[str, list[float]] = {name: [] for name in times}
    peaks: dict[str, int] = {"import": 0, "export": 0}
    try:
        run("make", root, size, 1)
        for _ in range(repeats):
            sync_files(root)
            seconds, processor = copy(root / "hf", root / "copy")
            times["cp"].append(seconds)
            cpu["cp"].append(processor)
            shutil.rmtree(root / "copy")
            for step, output in (("import", "mg"), ("export", "back")):
                shutil.rmtree(root / output, ignore_errors=True)
                sync_files(root)
                found = run(step, root, size, processes)
                times[step].append(found["seconds"])
                cpu[step].append(found["cpu"])
                peaks[step] = max(peaks[step], found["peak"])
            print(
                f"  {size}: " + ", ".join(f"{k} {v[-1]:.1f} s" for k, v in times.items()), file=sys.stderr, flush=True
            )
        run("round trip", root, size, 1)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for name, taken in times.items():
        row[f"{name} MB/s"] = total / min(taken) / 1e6
        row[f"{name} CPU s"] = min(cpu[name])
    for name in ("import", "export"):
        row[f"{name} / cp"] = row[f"{name} MB/s"] / row["cp MB/s"]
        row[f"{name} peak MiB"] = peaks[name] / 2**20
        row[f"{name} ok"] = peaks[name] <= LIMIT + largest_tensor(model) and row[f"{name} / cp"] >= CP_SHARE
    return row


def show(rows: list[dict[str, Any]]) -> None:
    columns = ["size", "GB", "largest MiB", "cp MB/s", "cp CPU s"]
    for name in ("import", "export"):
        columns += [f"{name} MB/s", f"{name} / cp", f"{name} CPU s", f"{name} peak MiB"]
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        cells = [
            row[c] if isinstance(row[c], str) else f"{row[c]:.2f}" if row[c] < 20 else f"{row[c]:,.0f}" for c in columns
        ]
        print("| " + " | ".join(cells) + " |")
    big, last = SHAPES["70B"], rows[-1]
    seconds = {name: num_bytes(big) / (last[f"{name} MB/s"] * 1e6) for name in ("import", "export")}
    print(
        f"\n70B by its shapes: {num_bytes(big) / 1e9:.0f} GB, largest tensor {largest_tensor(big) / 2**20:.0f} MiB, cut into "
        f"the same slices as the smaller ones, so the same peak (limit {(LIMIT + largest_tensor(big)) / 2**20:.0f} MiB); "
        f"at the rates of {last['size']}: import {seconds['import'] / 60:.1f} min, export {seconds['export'] / 60:.1f} min."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["1B", "3B", "7B"], choices=SHAPES, help="largest last")
    parser.add_argument("--dir", type=Path, default=Path("runs/bench"), help="on the disk to be measured")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="0.1B once: checks that it works, not its speed")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.dir, args.sizes[0], args.processes)
        return 0
    sizes, repeats = (["0.1B"], 1) if args.quick else (args.sizes, args.repeats)
    rows = []
    for size in sizes:
        args.dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(args.dir).free
        needed = 3.1 * num_bytes(SHAPES[size])  # source, import and export; the copy is removed before them
        if free < needed:
            print(f"  {size}: skipped, needs {needed / 1e9:.0f} GB of disk, {free / 1e9:.0f} are free", file=sys.stderr)
            continue
        rows.append(measure(size, args.dir, args.processes, repeats))
    if rows:
        show(rows)
    missed = [f"{row['size']} {name}" for row in rows for name in ("import", "export") if not row[f"{name} ok"]]
    if missed and not args.quick:
        print(f"missed (memory <= 2 GiB + largest tensor, speed >= {CP_SHARE} of cp): {missed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
