"""From YAML files and overrides to a checked Config, and in and out of a run directory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_srlm.config import Config
from nemo_srlm.errors import ConfigError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FROZEN = "config.yaml"  # in the run directory: what runs is what was started


def compose(config_name: str = "tiny", overrides: Sequence[str] = (), config_dir: Path = CONFIGS) -> Config:
    """The config of `<config_dir>/<config_name>.yaml` and `key=value` overrides, checked against the schema.

    The same Hydra composition that NeMo's `hydra_runner` does in the training workers, without NeMo's import time.
    Raises ConfigError for an unknown file, key or type and for settings that contradict each other.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    name = config_name.removesuffix(".yaml")
    if not (config_dir / f"{name}.yaml").is_file():
        known = ", ".join(sorted(p.stem for p in config_dir.glob("*.yaml")))
        raise ConfigError("--config-name", f"no {name}.yaml in {config_dir}", f"one of: {known}")
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            raise ConfigError("override", repr(override), "key=value, for example dpo.beta=0.2")
    forced = [
        o if o.startswith("~") else _pick(o, config_dir, name) if _is_group(o, config_dir) else "++" + o.lstrip("+")
        for o in overrides
    ]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir.resolve()), version_base=None):
            loose = hydra_compose(name, overrides=forced)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{name}.yaml {' '.join(overrides)}".strip(), _first_line(error)) from error
    return typed(loose, f"{name}.yaml and overrides")


def _is_group(override: str, config_dir: Path) -> bool:
    """`cluster=dgx_h100` picks a file of a folder of configs/."""
    return (config_dir / override.lstrip("+").split("=", 1)[0]).is_dir()


def _pick(override: str, config_dir: Path, name: str) -> str:
    """Hydra wants `+cluster=cpu` where the config names no cluster of its own, and `cluster=cpu` where it does."""
    from omegaconf import DictConfig, OmegaConf

    plain = override.lstrip("+")
    loaded = OmegaConf.load(config_dir / f"{name}.yaml")
    assert isinstance(loaded, DictConfig)
    named = [list(entry) for entry in loaded.get("defaults", []) if entry != "_self_"]
    return plain if [plain.split("=", 1)[0]] in named else f"+{plain}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def typed(loose: Any, where: str) -> Config:
    """An OmegaConf tree as a checked Config. Raises ConfigError naming the key."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        cfg = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), loose))
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"{where}: {error.full_key or 'config'}", _first_line(error), remedy="`nemo-srlm config` prints every key"
        ) from error
    assert isinstance(cfg, Config)
    check(cfg)
    return cfg


def as_yaml(cfg: Config) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(cfg))


def freeze(cfg: Config, run_dir: Path) -> None:
    """Writes the resolved config into the run directory, atomically."""
    run_dir.mkdir(parents=True, exist_ok=True)
    temporary = run_dir / f".{FROZEN}.tmp"
    temporary.write_text(as_yaml(cfg), encoding="utf-8")
    temporary.replace(run_dir / FROZEN)


def thaw(run_dir: Path) -> Config:
    """The config under which a run was started. Raises ConfigError when there is none."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    path = run_dir / FROZEN
    try:
        return typed(OmegaConf.load(path), str(path))
    except FileNotFoundError as error:
        raise ConfigError(path, "no such file", "the directory of a run that was started") from error
    except YAMLError as error:
        raise ConfigError(path, f"not YAML: {_first_line(error)}") from error


def _one_of(where: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise ConfigError(where, repr(value), f"one of {', '.join(map(str, allowed))}")


def check(cfg: Config) -> None:
    """Values that the types cannot refuse. Raises ConfigError naming the first one."""
    _one_of("run.arm", cfg.run.arm, ("self", "random", "sft_only", "oracle", "given"))
    _one_of("world.split", cfg.world.split, ("dev", "test"))
    _one_of("eft.source", cfg.eft.source, ("baseline", "given"))
    _one_of("precision.dtype", cfg.precision.dtype, ("fp32", "bf16"))
    _one_of("precision.fp8", cfg.precision.fp8, ("none", "hybrid", "e4m3"))
    _one_of("precision.recompute", cfg.precision.recompute, ("none", "selective", "full"))
    _one_of("dpo.loss", cfg.dpo.loss, ("sigmoid", "ipo"))
    _one_of("select.by", cfg.select.by, ("compare", "score"))
    for name in cfg.select.stages:
        _one_of("select.stages", name, ("sft", "dpo", "sft_chosen"))
    _one_of("prompts.writer", cfg.prompts.writer, ("fixed", "policy"))
    _one_of("judge.method", cfg.judge.method, ("sampled", "expected"))
    _one_of("generate.engine", cfg.generate.engine, ("vllm",))  # an endpoint is named in api.stages
    _one_of("generate.dtype", cfg.generate.dtype, ("auto", "bfloat16", "float16", "float32"))
    _one_of("generate.quantization", cfg.generate.quantization, ("", "fp8"))
    _one_of("eval.harness.backend", cfg.eval.harness.backend, ("vllm", "hf"))
    _one_of("pairs.rule", cfg.pairs.rule, ("max_min", "length_controlled"))
    for name in ("pretrain", "sft", "dpo"):
        _one_of(f"{name}.schedule", getattr(cfg, name).schedule, ("cosine", "linear", "constant"))
    for name in ("sft", "dpo"):
        section = getattr(cfg, name)
        if section.keep_best and not (section.num_validation and section.validate_every):
            raise ConfigError(
                f"{name}.keep_best", f"true with {name}.num_validation={section.num_validation} and "
                f"{name}.validate_every={section.validate_every}", "validation losses to choose by", "set both",
            )  # fmt: skip
        if section.num_validation < 0 or (section.validate_every and not section.num_validation):
            raise ConfigError(
                f"{name}.num_validation", f"{section.num_validation} with {name}.validate_every={section.validate_every}",
                "a number of examples to validate on", f"set {name}.num_validation, or {name}.validate_every=0",
            )  # fmt: skip
    if cfg.pretrain.validate_every or cfg.pretrain.keep_best:
        raise ConfigError(
            "pretrain.validate_every, pretrain.keep_best", "set", "0 and false: pretraining holds out nothing"
        )
    if twice := [s for s in cfg.select.stages if cfg.select.every and (cfg.dpo if s == "dpo" else cfg.sft).keep_best]:
        raise ConfigError(
            "select.stages", f"{twice} with keep_best", "one way to choose a checkpoint",
            "leave the stage out of select.stages, or set its keep_best=false",
        )  # fmt: skip
    positive = {
        "iterations": cfg.iterations + 1, "candidates.num": cfg.candidates.num - 1, "judge.draws": cfg.judge.draws,
        "parallel.processes": cfg.parallel.processes, "dpo.global_batch": cfg.dpo.global_batch,
        "sft.global_batch": cfg.sft.global_batch, "dpo.beta": cfg.dpo.beta,
        "prompts.num_prompts": cfg.prompts.num_prompts, "generate.tensor_parallel": cfg.generate.tensor_parallel,
        "generate.replicas": cfg.generate.replicas, "generate.max_model_len": cfg.generate.max_model_len + 1,
    }  # fmt: skip
    for where, value in positive.items():
        if value <= 0:
            low = {"iterations": "0 or more", "candidates.num": "2 or more", "generate.max_model_len": "0 or more"}
            low_words = low.get(where, "more than 0")
            raise ConfigError(where, "too small", low_words)
    if not 1 <= cfg.judge.min_valid <= cfg.judge.draws:
        raise ConfigError("judge.min_valid", str(cfg.judge.min_valid), f"1 to judge.draws ({cfg.judge.draws})")
    for where, sampling in (
        ("prompts", cfg.prompts), ("candidates", cfg.candidates), ("judge", cfg.judge), ("select", cfg.select)
    ):  # fmt: skip
        if not 0 < sampling.top_p <= 1:
            raise ConfigError(f"{where}.top_p", str(sampling.top_p), "more than 0, at most 1")
    for name in cfg.api.stages:
        _one_of("api.stages", name, ("prompts", "judge", "select", "eval_h2h", "eval_mt_bench"))
        for where, text in (("api.url", cfg.api.url), ("api.model", cfg.api.model)):
            if not text:
                raise ConfigError(where, "empty", f"what api.stages={cfg.api.stages} asks")
    if cfg.world.enabled and cfg.select.every and cfg.world.split == "dev":
        raise ConfigError(
            "world.split", "dev: with select.every these prompts choose the checkpoints", "test", "world.split=test"
        )
    for where, file in (("eval.prompts", cfg.eval.prompts), ("select.prompts", cfg.select.prompts)):
        if cfg.world.enabled and file:
            raise ConfigError(where, "set in the tiny world, whose oracle knows its own prompts only", '""')
    if cfg.run.arm == "oracle" and not cfg.world.enabled:
        raise ConfigError("run.arm", "oracle without the tiny world", "world.enabled=true")
