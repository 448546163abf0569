"""Checks of training, by the project's own stages and launcher, on the tiny world at a tiny size."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert.verify import round_trip
from nemo_srlm.core.manifest import read as read_manifest
from nemo_srlm.core.process import die_with_parent
from nemo_srlm.core.terminal import say
from nemo_srlm.doctor.check import Failed, Figures, Place
from nemo_srlm.train.checkpoint_dir import latest

# sizes that every kernel takes: FP8 in blocks wants multiples of 128, vLLM's attention a head size of 64
MODEL = ModelSection(
    num_layers=4, hidden_size=256, ffn_hidden_size=512, num_attention_heads=4, num_query_groups=2, vocab_size=512,
    max_length=320,
)  # fmt: skip
NUM_PAIRS = 64
TOLERANCE = 0.15  # of a loss, against bf16 on replicas alone
DETERMINISTIC = {
    "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "NCCL_ALGO": "^NVLS",  # NVSwitch adds up in an order of its own, which a restart may change
}
RESUME_TOLERANCE = 0.05  # of a loss, on a GPU whose attention has no deterministic backward pass


def settings(place: Place, run: str) -> list[str]:
    """The overrides of a check's run. At the config's own rate a step after two of warm-up diverges, and by format apart."""
    sizes = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups")
    train = {"global_batch": 16, "micro_batch": 2, "max_steps": place.steps, "save_every": 0, "log_every": 1}
    return [
        f"run.root={place.directory}", f"run.name={run}", "run.arm=external", "iterations=1",
        f"pairs.files=[{place.directory / 'preferences.jsonl'}]",
        "world.num_documents=1000", "world.num_ift=64", "world.num_eft=32", "world.num_eval_prompts=0", "world.num_eval_judge=0",
        "seed.num_ift=64", "eft.num_train=32", "precision.dtype=bf16", f"parallel.processes={place.machine.processes}",
        "export.verify=round_trip", "dpo.replay_weight=0", "generate.replicas=1", "pretrain.lr=1e-3", "pretrain.min_lr=1e-4",
        "pretrain.warmup_steps=2", "sft.warmup_steps=2", "dpo.warmup_steps=2",
        *(f"model.{name}={getattr(MODEL, name)}" for name in sizes),
        *(f"{stage}.{name}={value}" for stage in ("pretrain", "sft", "dpo") for name, value in train.items()),
    ]  # fmt: skip


def is_deterministic(place: Place) -> bool:
    """Transformer Engine's attention of packed rows is deterministic, when asked, since compute capability 9.0."""
    return all(gpu.capability >= (9, 0) for gpu in place.machine.gpus)


def environment(place: Place) -> dict[str, str]:
    return {**os.environ, **(DETERMINISTIC if is_deterministic(place) else {})}


def command(place: Place, run: str, stage: str, extra: Sequence[str] = ()) -> list[str]:
    """`nemo-srlm STAGE` on a check's run."""
    iteration = "1" if stage in ("pairs", "dpo") else "0"
    return [
        sys.executable, "-m", "nemo_srlm.cli", stage, "--iteration", iteration, "--config-name", "tiny",
        *settings(place, run), *extra,
    ]  # fmt: skip


def run_stages(place: Place, run: str, stages: Sequence[str], *extra: str) -> None:
    """Runs stages one after another. Raises Failed with the launcher's message."""
    parent = os.getpid()
    for stage in stages:
        say(f"--- {run}: {stage}")
        done = subprocess.run(
            command(place, run, stage, extra),
            env=environment(place),
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: die_with_parent(parent),  # an interrupted doctor leaves no training behind
        )
        say(done.stdout + done.stderr)
        if done.returncode:
            raise Failed((done.stderr.strip() or done.stdout.strip())[-2000:])


def stage_directory(place: Place, run: str, stage: str) -> Path:
    return place.directory / run / ("iter1" if stage in ("pairs", "dpo") else "iter0") / stage


def lines(place: Place, run: str, stage: str) -> list[dict[str, Any]]:
    """The steps of a training stage, from its metrics."""
    text = (stage_directory(place, run, stage) / "metrics.jsonl").read_text(encoding="utf-8")
    return [line for line in map(json.loads, text.splitlines()) if "loss" in line]


def losses(place: Place, run: str, stage: str) -> list[float]:
    return [line["loss"] for line in lines(place, run, stage)]


def _trained(place: Place, run: str, stage: str) -> Figures:
    """First and last loss and the speed. Raises Failed when the loss did not fall."""
    found = losses(place, run, stage)
    if len(found) != place.steps:
        raise Failed(f"{stage}: {len(found)} steps are logged, expected {place.steps}")
    tail = sum(found[-3:]) / len(found[-3:])
    if not tail < found[0]:
        raise Failed(f"{stage}: the loss did not fall: {found[0]:.4f} at first, {tail:.4f} at the end")
    manifest = read_manifest(stage_directory(place, run, stage))
    assert manifest is not None
    return {
        f"{stage} loss": f"{found[0]:.4f} -> {tail:.4f}", f"{stage} tokens/s": round(manifest.metrics["tokens_per_s"]),
    }  # fmt: skip


def sft(place: Place) -> Figures:
    """M0 from random weights, then M1. Every later check starts from this run."""
    _write_preferences(place.directory / "preferences.jsonl")
    run_stages(place, "bf16", ("world", "seed", "pretrain", "eft", "sft"))
    return _trained(place, "bf16", "pretrain") | _trained(place, "bf16", "sft")


def _write_preferences(path: Path) -> None:
    rows = [
        {"prompt": f"Say the number {i}.", "chosen": f"The number is {i}.", "rejected": f"No, {i + 1}!"}
        for i in range(NUM_PAIRS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def dpo(place: Place) -> Figures:
    """The stage itself stops unless the first loss is ln 2."""
    run_stages(place, "bf16", ("pairs", "dpo"))
    first = lines(place, "bf16", "dpo")[0]["dpo_loss"]
    return {**_trained(place, "bf16", "dpo"), "first DPO loss": round(first, 6)}


def fp8(place: Place) -> Figures:
    """Every recipe that the GPU has: pretraining beside bf16's losses. The whole way to DPO with the first of them."""
    found: Figures = {}
    for number, recipe in enumerate(place.machine.fp8_recipes):
        run = f"fp8_{recipe}"
        kept = 0 if recipe == "delayed" else 1  # Megatron keeps layers in bf16 with the other recipes only
        extra = (
            "precision.fp8=hybrid", f"precision.fp8_recipe={recipe}", f"precision.fp8_bf16_layers={kept}",
            f"run.reuse={place.directory / 'bf16'}",
        )  # fmt: skip
        first = ("world", "seed", "pretrain")
        run_stages(place, run, first if number else (*first, "eft", "sft", "pairs", "dpo"), *extra)
        expected = losses(place, "bf16", "pretrain")
        apart = max(abs(a - b) for a, b in zip(losses(place, run, "pretrain"), expected, strict=True))
        if not apart <= TOLERANCE:
            raise Failed(f"{recipe}: a loss is {apart:.3f} away from bf16's, allowed {TOLERANCE}")
        found[f"{recipe}: largest difference"] = round(apart, 4)
    return found


def layout_of(processes: int) -> list[str]:
    """The overrides of SFT in the manner of the shipped layouts: tensor and sequence parallelism and filled rows; from four
    processes on pipeline stages with two chunks each, too."""
    stages = 2 if processes >= 4 else 1
    return [
        "parallel.tensor=2", "parallel.sequence=true", f"parallel.pipeline={stages}", f"parallel.virtual_pipeline={stages}",
        "precision.cross_entropy=te", "sft.micro_batch=1", f"sft.max_tokens_per_row={2 * MODEL.max_length}",
    ]  # fmt: skip


def layout(place: Place) -> Figures:
    """SFT once more, from the same M0, with its matrices, sequences and layers spread over the GPUs."""
    _before_sft(place, "layout")
    run_stages(place, "layout", ("sft",), *layout_of(place.machine.processes))
    apart = max(
        abs(a - b) for a, b in zip(losses(place, "layout", "sft"), losses(place, "bf16", "sft"), strict=True)
    )  # fmt: skip
    if not apart <= TOLERANCE:
        raise Failed(f"a loss is {apart:.3f} away from that on replicas alone, allowed {TOLERANCE}")
    return {"largest difference": round(apart, 4)}


def _before_sft(place: Place, run: str) -> Path:
    """A copy of the run bf16 as it was before SFT."""
    whole, made = place.directory / "bf16", place.directory / run
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(whole, made, symlinks=True, ignore=shutil.ignore_patterns("sft", "export", "iter1", "slurm"))
    return made


def resume(place: Place) -> Figures:
    """SFT once more, killed with -9 after its first checkpoint and started again: bit-equal to the undisturbed one."""
    whole, killed = place.directory / "bf16", _before_sft(place, "resumed")
    at = _kill_in_the_middle(place, killed / "iter0" / "sft" / "checkpoint")
    run_stages(place, "resumed", ("sft",), "sft.save_every=1")
    expected, found = losses(place, "bf16", "sft"), losses(place, "resumed", "sft")
    if not is_deterministic(place):
        apart = max(abs(a - b) for a, b in zip(expected, found, strict=True))
        if not apart <= RESUME_TOLERANCE:
            raise Failed(f"a loss is {apart:.3f} away from the undisturbed one, allowed {RESUME_TOLERANCE}")
        return {"killed after step": at, "largest difference, nondeterministic attention": round(apart, 5)}
    if expected != found:
        first = next(i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b)
        raise Failed(f"losses differ from step {first + 1} on: {expected[first]} undisturbed, {found[first]} resumed")
    final = latest(killed / "iter0" / "sft" / "checkpoint")
    assert final is not None
    if different := round_trip(whole / "iter0" / "export" / "hf", final, MODEL)["different"]:
        raise Failed(f"the losses are equal, {len(different)} weights are not: {different[:3]}")
    return {"killed after step": at}


def _kill_in_the_middle(place: Place, checkpoints: Path) -> int:
    """Starts SFT and kills its launcher, and by that all of its processes, once a checkpoint is complete."""
    parent = os.getpid()
    with (place.directory / "killed.log").open("wb") as log:
        child = subprocess.Popen(
            command(place, "resumed", "sft", ["sft.save_every=1"]), env=environment(place), stdout=log, stderr=log,
            preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509 - the only way; this process has one thread
        )  # fmt: skip
        while child.poll() is None:
            saved = latest(checkpoints) if checkpoints.is_dir() else None
            if saved is not None:
                child.kill()
                child.wait()
                if saved.name == "final":
                    break
                return int(saved.name.removeprefix("step_"))
            time.sleep(0.01)
    raise Failed(f"training ended before it could be killed (exit code {child.returncode}); see killed.log")
