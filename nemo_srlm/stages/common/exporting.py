"""Exports of a checkpoint as a verified HF directory: the stages export*, and the part that select_export shares."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.convert.children import Child, start_forward
from nemo_srlm.core import outputs
from nemo_srlm.core.files import read_json
from nemo_srlm.core.pipeline import tokenizer_ref
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.errors import CheckpointError

HF, CARD = "hf", "hf.verification.json"

Report = Callable[[int, int], None]  # (parameters done, of how many)


def _no_report(done: int, total: int) -> None:
    pass


def export_stage(name: str, policy: Callable[[Config, int], Ref]) -> Stage:
    """A stage that exports the model of the stage `policy`, with the tokenizer of the run."""

    def inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
        return {"policy": policy(cfg, iteration), "tokenizer": tokenizer_ref(cfg)}

    return Stage(name, "convert", inputs, export_identity, _run, _finalize)


def export_identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return {"export": identity(cfg.export), "model": identity(cfg.model), "chat": identity(cfg.chat)}


def is_verified(directory: Path) -> bool:
    """Whether `directory` has an export that passed its verification."""
    return (directory / CARD).exists() and bool(read_json(directory / CARD)["passed"])


def digests_of_card(directory: Path) -> dict[str, str]:
    """SHA-256 of the weight files of an export, by path in its stage's directory; {} where there is no card."""
    if not (directory / CARD).exists():
        return {}
    files = read_json(directory / CARD).get("round_trip", {}).get("files", {})
    return {f"{HF}/{name}": file["sha256"] for name, file in files.items()}


def write_hf(ctx: Context, checkpoint: Path, directory: Path, report: Report = _no_report) -> None:
    """Writes `directory`/hf from a Megatron checkpoint, not yet verified. Resumes by file."""
    from nemo_srlm.convert.export_hf import export_hf

    section, chat = ctx.cfg.export, ctx.cfg.chat
    own_template = None if chat.format == "model" else chat  # None: the imported template is copied
    export_hf(
        checkpoint, directory / HF, ctx.cfg.model, tokenizer=ctx.inputs["tokenizer"] / "tokenizer", chat=own_template,
        dtype=section.dtype, max_shard_bytes=int(section.max_shard_gb * 1e9), processes=section.processes, overwrite=True,
        report=report,
    )  # fmt: skip


def _run(ctx: Context) -> None:
    if is_verified(ctx.dir):
        return
    with contextlib.ExitStack() as stack:
        _export_and_verify(ctx, start_forward(stack, ctx.cfg.export.verify))


def _export_and_verify(ctx: Context, children: dict[str, Child]) -> None:
    """children: the processes of the verification's forward passes, which import their libraries meanwhile."""
    from nemo_srlm.convert.verify import passes, verify
    from nemo_srlm.report.cards import card_models
    from nemo_srlm.train.checkpoint_dir import latest

    section = ctx.cfg.export
    checkpoint = latest(ctx.inputs["policy"] / "checkpoint")
    if checkpoint is None:
        raise CheckpointError(ctx.inputs["policy"] / "checkpoint", "no complete checkpoint", "final/ or step_*/",
                              "run the stage that trains it again")  # fmt: skip
    again = len(passes(section.verify))  # how often the verification goes through the parameters

    def written(done: int, total: int) -> None:
        ctx.progress.update(done, (1 + again) * total, "parameters")

    def verified(done: int, total: int) -> None:
        size = total // again
        ctx.progress.update(size + done, size + total, "parameters", phase="verify")

    write_hf(ctx, checkpoint, ctx.dir, written)
    names = {place: name for name, place in card_models(ctx.cfg).items()}
    write_model_card(ctx, ctx.dir, names.get((ctx.iteration, ctx.dir.name), "M0"))
    verify(
        ctx.dir / HF, checkpoint, level=section.verify, layers=section.verify_layers, memory_gb=section.verify_memory_gb,
        report=verified, children=children,
    )  # fmt: skip


def write_model_card(ctx: Context, directory: Path, model: str, checkpoint: str = "") -> None:
    """`directory`/hf/README.md: what the model is and comes from. Every evaluation reads the export, so its figures come later,
    with the next report. checkpoint: one of the model's training, which need not become the model.
    """
    from nemo_srlm.report.cards import model_card
    from nemo_srlm.report.run_files import RunFiles

    files = RunFiles(ctx.dir.parents[1], ctx.cfg)
    text = model_card(files, model, measured=False, checkpoint=checkpoint)
    write_atomic(directory / HF / outputs.CARD, text)


def _finalize(ctx: Context) -> dict[str, Any]:
    card = read_json(ctx.dir / CARD)
    if not card["passed"]:
        raise CheckpointError(ctx.dir / HF, "; ".join(card["problems"]), "a verified export", f"see {ctx.dir / CARD}")
    metrics = {
        "num_parameters": card["num_parameters"],
        "dtype": card["round_trip"]["dtype"],
        "hf_tensors": card["round_trip"]["hf_tensors"],
        "padding_rows_dropped": card["round_trip"]["padding_rows"],
        "verified": card["level"],
    }
    if "logits" in card:
        metrics["logits_max_abs"] = card["logits"]["max_abs"]
    return metrics
