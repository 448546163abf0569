"""select_export: the weights that a training kept on its way as HF directories, so that vLLM can answer with them.

Writes <checkpoint>/hf, <checkpoint> being weights_<step> or final, each compared with its checkpoint tensor by tensor.
"""

from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core import manifest
from nemo_srlm.core.files import read_json
from nemo_srlm.core.pipeline import policy_stage, tokenizer_ref
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.stages.export import CARD, HF


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"trained": Ref(policy_stage(cfg, iteration), iteration), "tokenizer": tokenizer_ref(cfg)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return {name: identity(getattr(cfg, name)) for name in ("export", "model", "chat")}


def _checkpoints(ctx: Context) -> list[Path]:
    from nemo_srlm.train.checkpoint_dir import to_compare

    trained = ctx.inputs["trained"]
    steps = int(read_json(trained / manifest.NAME)["metrics"]["steps"])
    return to_compare(trained / "checkpoint", ctx.cfg.select.every, steps)


def _run(ctx: Context) -> None:
    from nemo_srlm.convert.export_hf import export_hf
    from nemo_srlm.convert.verify import verify

    section = ctx.cfg.export
    checkpoints = _checkpoints(ctx)
    for done, checkpoint in enumerate(checkpoints):
        ctx.progress.update(done, len(checkpoints), "checkpoints")
        out = ctx.dir / checkpoint.name
        if (out / CARD).exists() and read_json(out / CARD)["passed"]:
            continue
        export_hf(
            checkpoint, out / HF, ctx.cfg.model, tokenizer=ctx.inputs["tokenizer"] / "tokenizer", chat=ctx.cfg.chat,
            dtype=section.dtype, max_shard_bytes=int(section.max_shard_gb * 1e9), processes=section.processes,
            overwrite=True,
        )  # fmt: skip
        verify(out / HF, checkpoint, level="round_trip")


def _finalize(ctx: Context) -> dict[str, Any]:
    names = [path.name for path in _checkpoints(ctx)]
    return {"checkpoints": names, "summary": f"{len(names)} checkpoints"}


STAGE = Stage("select_export", "convert", _inputs, _identity, _run, _finalize)
