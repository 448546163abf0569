"""The checks of a config: one walk over the rules of all fields, then the rules between fields, one function per group."""

import dataclasses
import re
from operator import attrgetter
from typing import Any
from urllib.parse import urlsplit

from nemo_srlm.config.fields import rules
from nemo_srlm.config.fp8 import check_fp8
from nemo_srlm.config.method_checks import check_methods
from nemo_srlm.config.schema import Config, check_shares
from nemo_srlm.config.training import DpoSection, SftSection, TrainSection, check_heads, check_rope
from nemo_srlm.errors import ConfigError


def check(cfg: Config) -> None:
    """Raises ConfigError naming the first setting that is not allowed, alone or beside another."""
    check_fields(cfg)
    check_heads(cfg.model)
    check_rope(cfg.model)
    check_fp8(cfg.model, cfg.parallel, cfg.precision, cfg.run.start == "instruct" and cfg.eft.source == "none")
    _validation("sft", cfg.sft)
    _validation("dpo", cfg.dpo)
    _pretraining(cfg)
    _learning_rates(cfg)
    _preferences(cfg)
    _number_formats(cfg)
    _overlap(cfg)
    _cuda_graphs(cfg)
    _selection(cfg)
    _start(cfg)
    _prompts(cfg)
    _eft(cfg)
    _judging(cfg)
    check_methods(cfg)
    _unread(cfg)
    _endpoint(cfg)
    check_shares(cfg.world)
    check_tiny_world(cfg)


def check_fields(section: Any, where: str = "") -> None:
    """Every field of a section and of the sections in it, against its own rule. `where` is the key of the section."""
    for name, rule in rules(type(section)).items():
        value = getattr(section, name)
        key = f"{where}.{name}" if where else name
        if dataclasses.is_dataclass(value):
            check_fields(value, key)
        elif not rule.permits(value):
            raise ConfigError(
                key,
                repr(value),
                rule.expected(value),
                f"`nemo-srlm config --describe {key}` explains it",
            )


def _validation(name: str, section: SftSection | DpoSection) -> None:
    found = f"{name}.num_validation={section.num_validation} and {name}.validate_every={section.validate_every}"
    if section.keep_best and not (section.num_validation and section.validate_every):
        raise ConfigError(
            f"{name}.keep_best",
            f"true with {found}",
            "validation losses to choose by",
            f"set both, or {name}.keep_best=false",
        )
    if section.validate_every and not section.num_validation:
        raise ConfigError(
            f"{name}.num_validation", found, "a number of examples to validate on",
            f"set {name}.num_validation, or {name}.validate_every=0",
        )  # fmt: skip


def _pretraining(cfg: Config) -> None:
    for name in ("validate_every", "keep_best"):
        if value := getattr(cfg.pretrain, name):
            raise ConfigError(
                f"pretrain.{name}", str(value), "no validation: pretraining holds out nothing",
                f"set pretrain.{name}={type(value)()}".lower(),
            )  # fmt: skip


def _learning_rates(cfg: Config) -> None:
    for name, section in (("pretrain", cfg.pretrain), ("sft", cfg.sft), ("dpo", cfg.dpo)):
        if section.min_lr > section.lr:
            raise ConfigError(
                f"{name}.min_lr", str(section.min_lr), f"at most {name}.lr, {section.lr}", f"lower {name}.min_lr"
            )


def _number_formats(cfg: Config) -> None:
    """What makes gradients bf16 is for bf16 models."""
    precision = cfg.precision
    if precision.dtype != "fp32":
        return
    if not precision.grad_reduce_in_fp32:
        raise ConfigError(
            "precision.grad_reduce_in_fp32", "false with precision.dtype fp32", "true: the gradients are float32",
            "set precision.grad_reduce_in_fp32=true, or precision.dtype=bf16",
        )  # fmt: skip
    if precision.cross_entropy == "native":
        raise ConfigError(
            "precision.cross_entropy", "native with precision.dtype fp32", "unfused: Megatron's kernel rounds gradients to bf16",
            "set precision.cross_entropy=unfused, or precision.dtype=bf16",
        )  # fmt: skip


def _overlap(cfg: Config) -> None:
    """Transformer Engine's overlap of tensor-parallel communication works on rows of one length."""
    p = cfg.parallel
    if not p.tp_comm_overlap:
        return
    if p.tensor == 1 or not p.sequence or p.tensor > p.processes:
        raise ConfigError(
            "parallel.tp_comm_overlap", f"true with tensor {p.tensor}, sequence {p.sequence}, {p.processes} processes per node",
            "tensor parallelism inside a node, with parallel.sequence=true",
            "change these, or set parallel.tp_comm_overlap=false",
        )  # fmt: skip
    _full_rows(cfg, "parallel.tp_comm_overlap", "false")


def _cuda_graphs(cfg: Config) -> None:
    """A recording has one shape and one order of rows, and no random numbers but those of its own generator."""
    p, precision = cfg.parallel, cfg.precision
    if precision.cuda_graphs == "none":
        return
    dropout = {name: section.dropout for name, section, _ in _trainings(cfg) if section.dropout}
    rules = (
        (p.pipeline > 1, f"pipeline {p.pipeline}", "parallel.pipeline=1: with stages, steps must have one number of rows"),
        (bool(dropout), f"dropout {dropout}", "dropout 0 in these sections: a recording does not follow a step's seed"),
        (precision.recompute == "full", "recompute full", "recompute none or selective, as Megatron does"),
        (precision.dtype != "bf16", f"dtype {precision.dtype}", "precision.dtype=bf16: Megatron records bf16 inputs"),
    )  # fmt: skip
    for broken, found, expected in rules:
        if broken:
            raise ConfigError(
                "precision.cuda_graphs",
                f"{precision.cuda_graphs} with {found}",
                expected,
                "change these, or set precision.cuda_graphs=none",
            )
    _full_rows(cfg, "precision.cuda_graphs", "none")


def _trainings(cfg: Config) -> list[tuple[str, TrainSection, int]]:
    """(name, section, documents of an example) of the sections that train in this run."""
    pretrain: list[tuple[str, TrainSection, int]] = [("pretrain", cfg.pretrain, 1)] if cfg.world.enabled else []
    return [*pretrain, ("sft", cfg.sft, 1), ("dpo", cfg.dpo, 3 if cfg.dpo.replay_weight else 2)]


def _full_rows(cfg: Config, key: str, off: str) -> None:
    """What `key` needs: rows of one length, which the longest example fits."""
    for name, section, documents in _trainings(cfg):
        longest = documents * section.max_length
        if section.max_tokens_per_row < longest:
            raise ConfigError(
                f"{name}.max_tokens_per_row", f"{section.max_tokens_per_row} with {key}",
                f"at least {longest}, the longest example ({documents} x {name}.max_length): all rows have this length then",
                f"raise it, lower {name}.max_length, or set {key}={off}",
            )  # fmt: skip


def _preferences(cfg: Config) -> None:
    if cfg.dpo.label_smoothing and cfg.dpo.loss in ("ipo", "apo_zero"):
        raise ConfigError(
            "dpo.label_smoothing", f"{cfg.dpo.label_smoothing} with dpo.loss={cfg.dpo.loss}",
            "0: this loss has no label smoothing", "set dpo.label_smoothing=0, or dpo.loss=sigmoid",
        )  # fmt: skip
    if cfg.dpo.loss == "robust" and not cfg.dpo.label_smoothing:
        raise ConfigError(
            "dpo.label_smoothing", "0 with dpo.loss=robust", "the share of wrong labels, above 0: with 0 this loss is sigmoid",
            "set dpo.label_smoothing, or dpo.loss=sigmoid",
        )  # fmt: skip
    if cfg.dpo.reference != "previous" and cfg.dpo.loss == "simpo":
        raise ConfigError(
            "dpo.reference", f"{cfg.dpo.reference} with dpo.loss=simpo", "previous: SimPO's loss has no reference",
            "set dpo.reference=previous, or another dpo.loss",
        )  # fmt: skip


def _selection(cfg: Config) -> None:
    trainings = {"sft": cfg.sft, "dpo": cfg.dpo, "sft_chosen": cfg.sft}
    twice = [name for name in cfg.select.stages if cfg.select.every and trainings[name].keep_best]
    if twice:
        raise ConfigError(
            "select.stages", f"{twice} with keep_best", "one way to choose a checkpoint",
            "leave the stage out of select.stages, or set its keep_best=false",
        )  # fmt: skip


def _start(cfg: Config) -> None:
    if cfg.run.start != "instruct":
        return
    if cfg.world.enabled:
        raise ConfigError(
            "run.start", "instruct in the tiny world, whose M0 is pretrained only", "base", "set world.enabled=false"
        )
    if cfg.seed.chat_files:
        raise ConfigError(
            "seed.chat_files", f"{cfg.seed.chat_files} with run.start=instruct, which trains on no IFT data",
            "no chat files", "set run.start=base to tune M0 on them, or seed.chat_files=[]",
        )  # fmt: skip


def _prompts(cfg: Config) -> None:
    section = cfg.prompts
    if section.source != "written" and cfg.world.enabled:
        raise ConfigError("prompts.source", f"{section.source} in the tiny world, whose oracle scores its own prompts only",
                          "written", "set prompts.source=written")  # fmt: skip
    if not section.num_prompts and not section.per_iteration and section.source != "file":
        raise ConfigError("prompts.num_prompts", f"0, with prompts.source={section.source}", "1 or more")
    for opening in section.openings:
        try:
            re.compile(opening)
        except re.error as error:
            raise ConfigError(
                "prompts.openings", f"{opening!r} ({error})", "regular expressions", "correct it, or leave it out"
            ) from error
    if cfg.prompts.min_words > cfg.prompts.max_words:
        raise ConfigError(
            "prompts.min_words", str(cfg.prompts.min_words), f"at most prompts.max_words, {cfg.prompts.max_words}",
            "lower prompts.min_words",
        )  # fmt: skip


def _eft(cfg: Config) -> None:
    if cfg.eft.source == "none" and cfg.dpo.replay_weight:
        raise ConfigError(
            "dpo.replay_weight", f"{cfg.dpo.replay_weight} without EFT examples (eft.source=none)", "0",
            "set dpo.replay_weight=0, or another eft.source",
        )  # fmt: skip
    if cfg.eft.justification and (cfg.eft.source != "ranks" or cfg.judge.lead_in):
        found = f"judge.lead_in={cfg.judge.lead_in!r}" if cfg.judge.lead_in else f"eft.source={cfg.eft.source}"
        raise ConfigError(
            "eft.justification",
            f"a text, with {found}",
            "eft.source=ranks and no judge.lead_in",
            "set eft.justification=''",
        )


def _judging(cfg: Config) -> None:
    if cfg.judge.lead_in and cfg.judge.method != "expected":
        raise ConfigError(
            "judge.lead_in", f"{cfg.judge.lead_in!r} with judge.method={cfg.judge.method}", "judge.method=expected",
            "set judge.method=expected, or judge.lead_in=''",
        )  # fmt: skip
    if cfg.judge.method == "expected" and cfg.judge.max_score > 9:
        raise ConfigError(
            "judge.max_score", f"{cfg.judge.max_score} with judge.method=expected", "at most 9: the score is one digit",
            "set judge.method=sampled, or a smaller judge.max_score",
        )  # fmt: skip
    scoring = {
        "judge", *(["select"] if cfg.select.by == "score" else []), *(["eval_h2h"] if cfg.eval.h2h_by == "score" else []),
    }  # fmt: skip
    if cfg.judge.method == "expected" and (asked := sorted(scoring & set(cfg.api.stages))):
        raise ConfigError(
            "judge.method", f"expected, with {asked[0]} on an endpoint, which gives no distribution over tokens", "sampled",
            "set judge.method=sampled, or leave the stage out of api.stages",
        )  # fmt: skip
    if cfg.judge.thinking_end and cfg.judge.method == "expected":
        raise ConfigError(
            "judge.thinking_end", f"{cfg.judge.thinking_end!r} with judge.method=expected", "judge.method=sampled",
            "set judge.method=sampled, or judge.thinking_end=''",
        )  # fmt: skip
    if cfg.judge.min_valid > cfg.judge.draws:
        raise ConfigError(
            "judge.min_valid",
            str(cfg.judge.min_valid),
            f"1 to judge.draws ({cfg.judge.draws})",
            "lower judge.min_valid",
        )


def _unread(cfg: Config) -> None:
    """Settings that no part of the run would read."""
    if cfg.pairs.files and cfg.run.arm != "external":
        raise ConfigError(
            "pairs.files", f"{cfg.pairs.files} with run.arm={cfg.run.arm}, whose pairs come from judged responses",
            "run.arm=external, which trains on the preferences of files",
            "set run.arm=external, or leave pairs.files out (a judge is measured on such files by eval.preferences)",
        )  # fmt: skip
    if cfg.world.enabled:  # else the model directory decides on the format, which config/imported.py reads
        refuse_unread_arguments(cfg)


def refuse_unread_arguments(cfg: Config) -> None:
    """Raises ConfigError for arguments of a chat template where none is rendered."""
    other_models = cfg.prompts.writer_path or cfg.eval.mt_bench.judge_path  # they may have templates of their own
    if cfg.chat.arguments and cfg.chat.format == "strings" and not other_models:
        raise ConfigError(
            "chat.arguments", f"{cfg.chat.arguments} with chat.format=strings, which renders no template",
            "chat.format=model", "leave chat.arguments out, or set chat.format=model",
        )  # fmt: skip


def _endpoint(cfg: Config) -> None:
    try:
        found = urlsplit(cfg.api.url)
        usable = not cfg.api.url or bool(found.hostname and not found.query and not found.fragment and found.port != 0)
    except ValueError:  # a port that is no number, brackets that do not match
        usable = False
    if not usable:
        raise ConfigError("api.url", repr(cfg.api.url), "http(s)://HOST[:PORT]/..., up to and with /v1")
    for key, text in (("api.url", cfg.api.url), ("api.model", cfg.api.model)):
        if cfg.api.stages and not text:
            raise ConfigError(
                key, "empty", f"the endpoint that api.stages={cfg.api.stages} use", f"set {key}, or api.stages=[]"
            )


def check_lengths(cfg: Config) -> None:
    """Raises ConfigError for a row or a request that is longer than the model has positions. `cfg.model` is known: the tiny
    world's, or that of the imported directory."""
    found = {f"{name}.max_length": section.max_length for name, section, _ in _trainings(cfg)}
    for key, length in (found | {"generate.max_model_len": cfg.generate.max_model_len}).items():
        if length > cfg.model.max_length:
            raise ConfigError(
                key,
                str(length),
                f"at most the model's {cfg.model.max_length} positions (model.max_length)",
                f"lower {key}",
            )


def check_tiny_world(cfg: Config) -> None:
    """Raises ConfigError for settings that the tiny world, or a run without it, does not have."""
    if not cfg.world.enabled:
        if cfg.run.arm == "oracle":
            raise ConfigError(
                "run.arm", "oracle without the tiny world", "world.enabled=true", "set it, or another run.arm"
            )
        return
    check_lengths(cfg)
    for key in ("import_hf.path", "seed.files", "seed.chat_files", "prompts.files"):
        if given := attrgetter(key)(cfg):
            raise ConfigError(
                key, f"{given!r} in the tiny world, which makes its own model and data", "a config without the tiny world",
                f"leave {key} out, or choose another config, such as --config-name llama2_7b",
            )  # fmt: skip
    if cfg.select.every and cfg.world.split == "dev":
        raise ConfigError(
            "world.split", "dev: with select.every these prompts choose the checkpoints", "test", "set world.split=test"
        )
    for key, file in (("eval.prompts", cfg.eval.prompts), ("select.prompts", cfg.select.prompts)):
        if file:
            raise ConfigError(
                key, f"{file!r} in the tiny world, whose oracle scores its own prompts only", '""', f"leave {key} empty"
            )
