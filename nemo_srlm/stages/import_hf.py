"""import_hf: M0 from an HF directory, as a torch_dist checkpoint that training starts from under any layout.

Reads import_hf.path (config.json, safetensors, tokenizer files); writes checkpoint/final/ and tokenizer/.
"""

from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import file_digest, read_json, write_json
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.errors import ConfigError, DataError

_REPORT = "imported.json"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    """The weights are identified by their files' names and sizes: 140 GB are not hashed at every check of the run."""
    from nemo_srlm.convert.tokenizer_files import FILES

    source = _source(cfg)
    kept = [path for name in FILES if (path := source / name).exists()]
    small = {path.name: file_digest(path) for path in sorted({*source.glob("*.json"), *kept}) if path.is_file()}
    weights = {
        path.name: path.stat().st_size for path in sorted([*source.glob("*.safetensors"), *source.glob("*.bin")])
    }
    section = identity(cfg.import_hf)
    del section["path"]  # its content counts, not its path
    found = {"import_hf": section, "model": identity(cfg.model), "files": small, "weights": weights}
    return found | ({"chat": {"format": "model"}} if cfg.chat.format == "model" else {})


def _check(cfg: Config) -> None:
    if not cfg.import_hf.path:
        raise ConfigError(
            "import_hf.path", "empty", "the HF directory of M0", "set import_hf.path=/path/to/Llama-2-7b-hf"
        )


def _source(cfg: Config) -> Path:
    _check(cfg)
    path = Path(cfg.import_hf.path)
    if not path.is_dir():
        raise DataError("import_hf.path", f"{path} is no directory", "the HF directory of M0")
    return path


def _run(ctx: Context) -> None:
    from nemo_srlm.convert.import_hf import import_hf
    from nemo_srlm.convert.tokenizer_files import copy_as_read, copy_unchanged
    from nemo_srlm.train.checkpoint_dir import FINAL

    section, source = ctx.cfg.import_hf, _source(ctx.cfg)
    changed = []
    if ctx.cfg.chat.format == "model":
        changed = copy_as_read(source, ctx.dir / "tokenizer")
    else:
        copy_unchanged(source, ctx.dir / "tokenizer")
    done = import_hf(
        source, ctx.dir / "checkpoint" / FINAL, dtype=section.dtype, expected=ctx.cfg.model, allow_bin=section.allow_bin,
        processes=section.processes, overwrite=True,
        report=lambda done, total: ctx.progress.update(done, total, "parameters"),
    )  # fmt: skip
    write_json(ctx.dir / _REPORT, {
        "num_parameters": done.num_parameters, "hf_tensors": done.num_tensors, "dtype": done.dtype,
        "ignored_buffers": len(done.ignored), **({"adapted_files": changed} if changed else {}),
    })  # fmt: skip


def _finalize(ctx: Context) -> dict[str, Any]:
    metrics: dict[str, Any] = read_json(ctx.dir / _REPORT)
    return metrics


STAGE = Stage("import_hf", "convert", _inputs, _identity, _run, _finalize, check=_check)
