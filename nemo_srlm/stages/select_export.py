"""select_export: the intermediate weights that a training kept, as HF directories, so that vLLM can generate with them.

Writes <checkpoint>/hf, <checkpoint> being weights_<step> or final, each compared with its checkpoint tensor by tensor,
and with a model card.
"""

from pathlib import Path
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core import manifest
from nemo_srlm.core.files import read_json
from nemo_srlm.core.pipeline import model_name, policy_stage, tokenizer_ref
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.stages.common.exporting import HF, export_identity, is_verified, write_hf, write_model_card


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"trained": Ref(policy_stage(cfg, iteration), iteration), "tokenizer": tokenizer_ref(cfg)}


def _checkpoints(ctx: Context) -> list[Path]:
    from nemo_srlm.train.checkpoint_dir import weights_to_compare

    trained = ctx.inputs["trained"]
    steps = int(read_json(trained / manifest.NAME)["metrics"]["steps"])
    return weights_to_compare(trained / "checkpoint", ctx.cfg.select.every, steps)


def _run(ctx: Context) -> None:
    from nemo_srlm.convert.verify import verify

    checkpoints = _checkpoints(ctx)
    for done, checkpoint in enumerate(checkpoints):
        ctx.progress.update(done, len(checkpoints), "checkpoints")
        out = ctx.dir / checkpoint.name
        if not is_verified(out):
            write_hf(ctx, checkpoint, out)
            write_model_card(ctx, out, model_name(ctx.iteration), checkpoint.name)
            verify(out / HF, checkpoint, level="round_trip")


def _finalize(ctx: Context) -> dict[str, Any]:
    names = [path.name for path in _checkpoints(ctx)]
    return {"checkpoints": names, "summary": f"{len(names)} checkpoints"}


STAGE = Stage("select_export", "convert", _inputs, export_identity, _run, _finalize)
