"""export: the policy of an iteration as an HF directory, verified. Its siblings export M0 and the SFT baseline.

Reads the newest complete checkpoint of the stage that trained the model, under whatever layout; writes hf/ and
hf.verification.json. Resumes by file; a finished hf/ without its card is verified again.
"""

from collections.abc import Callable
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_json
from nemo_srlm.core.pipeline import policy_ref
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.errors import CheckpointError

HF, CARD = "hf", "hf.verification.json"


def exporting(name: str, policy: Callable[[Config, int], Ref]) -> Stage:
    """A stage that exports the model of `policy`. The tokenizer is the tiny world's, or came with the imported M0."""

    def inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
        return {"policy": policy(cfg, iteration), "tokenizer": Ref("world" if cfg.world.enabled else "import_hf", 0)}

    return Stage(name, "convert", inputs, _identity, _run, _finalize)


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return {"export": identity(cfg.export), "model": identity(cfg.model), "chat": identity(cfg.chat)}


def _run(ctx: Context) -> None:
    from nemo_srlm.convert.export_hf import export_hf
    from nemo_srlm.convert.verify import verify
    from nemo_srlm.train.checkpoint_dir import latest

    if (ctx.dir / CARD).exists() and read_json(ctx.dir / CARD)["passed"]:
        return
    section = ctx.cfg.export
    checkpoint = latest(ctx.inputs["policy"] / "checkpoint")
    if checkpoint is None:
        raise CheckpointError(ctx.inputs["policy"] / "checkpoint", "no complete checkpoint", "final/ or step_*/",
                              "run the stage that trains it again")  # fmt: skip
    export_hf(
        checkpoint, ctx.dir / HF, ctx.cfg.model, tokenizer=ctx.inputs["tokenizer"] / "tokenizer", chat=ctx.cfg.chat,
        dtype=section.dtype, max_shard_bytes=int(section.max_shard_gb * 1e9), processes=section.processes, overwrite=True,
        report=lambda done, total: ctx.progress.update(done, 2 * total, "parameters"),
    )  # fmt: skip
    verify(
        ctx.dir / HF, checkpoint, level=section.verify, layers=section.verify_layers, memory_gb=section.verify_memory_gb,
        report=lambda done, total: ctx.progress.update(total + done, 2 * total, "parameters"),
    )  # fmt: skip


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


STAGE = exporting("export", policy_ref)
