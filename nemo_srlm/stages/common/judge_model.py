"""Which model judges a comparison or a grade: an endpoint, an HF directory that a setting names, or a model of the run.

The endpoint judges where `api.stages` names the stage; else the directory where its setting is not empty; else the
stage's input "judge", an export of this run.
"""

from pathlib import Path
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import file_digest
from nemo_srlm.core.stage import Context
from nemo_srlm.errors import ConfigError


def needs_own_judge(cfg: Config, stage: str, path: str) -> bool:
    """Whether a model of this run judges: then the stage needs the input "judge"."""
    return stage not in cfg.api.stages and not path


def judge_files(path: str, setting: str) -> dict[str, Any]:
    """The identity of an HF directory: digests of its small files, sizes of its weights. Raises ConfigError."""
    directory = Path(path)
    if not (directory / "config.json").is_file():
        raise ConfigError(setting, f"{directory} has no config.json", "an HF model directory")
    texts = sorted([*directory.glob("*.json"), *directory.glob("*.jinja")])
    small = {file.name: file_digest(file) for file in texts if file.is_file()}
    return {**small, **{file.name: file.stat().st_size for file in sorted(directory.glob("*.safetensors"))}}


def check_judge(cfg: Config, stage: str, path: str, setting: str) -> None:
    """Raises ConfigError where the directory that is to judge is not an HF directory."""
    if path and stage not in cfg.api.stages:
        judge_files(path, setting)


def judge_model_identity(cfg: Config, stage: str, path: str, setting: str) -> str | dict[str, Any]:
    """ "endpoint", "own", or the files of the HF directory."""
    if stage in cfg.api.stages:
        return "endpoint"
    return judge_files(path, setting) if path else "own"


def judge_directory(ctx: Context, path: str) -> Path:
    """The HF directory of the judge; unused where an endpoint judges."""
    return Path(path) if path or "judge" not in ctx.inputs else ctx.inputs["judge"] / "hf"
