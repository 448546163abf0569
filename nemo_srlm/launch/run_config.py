"""The config with which a training rank trains: what NeMo's hydra_runner hands over, checked against the schema."""

from importlib import metadata
from pathlib import Path

from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.config.compose import RESOLVED_CONFIG, typed
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import file_digest

HANDED_OVER = "config.nemo.yaml"  # in the run directory: hydra_runner's answer, for the trainings that follow


def run_config(run_dir: Path) -> Config:
    """What hydra_runner hands over for RUN_DIR/config.yaml. Raises ConfigError.

    The first training of a run asks it and keeps the answer beside the config; it holds as long as neither the config nor
    NeMo's version changes. The import of NeMo was a third of a small training's start.
    """
    from omegaconf import OmegaConf

    path, kept = run_dir.resolve() / RESOLVED_CONFIG, run_dir.resolve() / HANDED_OVER
    source = f"# hydra_runner of NeMo {metadata.version('nemo-toolkit')}, {RESOLVED_CONFIG} {file_digest(path)}\n"
    if kept.exists() and kept.read_text(encoding="utf-8").startswith(source):
        return typed(OmegaConf.load(kept), str(path))
    from nemo_srlm.train.megatron.nemo_runner import handed_over

    tree = handed_over(path)
    cfg = typed(tree, str(path))  # before it is kept: it names what is wrong, interpolations included
    write_atomic(kept, source + OmegaConf.to_yaml(tree, resolve=True))
    return cfg
