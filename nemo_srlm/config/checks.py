"""Rules between the fields of a config. What a single field may hold stands beside the field."""

from collections.abc import Sequence

from nemo_srlm.config.schema import Config
from nemo_srlm.errors import ConfigError


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
