"""The rules between the settings of methods that came after the paper: what would be ignored is refused."""

from operator import attrgetter
from typing import NamedTuple

from nemo_srlm.config.schema import Config
from nemo_srlm.config.score_scale import has_scale, score_scale
from nemo_srlm.errors import ConfigError

LATER = "leave it at its default"


def check_methods(cfg: Config) -> None:
    """Raises ConfigError naming the first setting that another one makes impossible or meaningless."""
    _arms(cfg)
    _unread(cfg)
    _pairs(cfg)
    _votes(cfg)
    _checker(cfg)
    _reward_model(cfg)
    _consistency(cfg)
    _anchors(cfg)
    _judge_training(cfg)
    _pairwise(cfg)
    _shared_prefix(cfg)


def _refuse(key: str, value: object, beside: str, expected: str, remedy: str = "") -> None:
    raise ConfigError(
        key, f"{value} with {beside}", expected, remedy or f"set {key.rpartition('.')[2]} otherwise, or {LATER}"
    )


def _arms(cfg: Config) -> None:
    """Arms whose scores are given, or that train on no pairs."""
    pairs, arm = cfg.pairs, f"run.arm={cfg.run.arm}"
    if cfg.run.arm in ("oracle", "external"):
        for name, default in (
            ("score", "judge"),
            ("consistency", "none"),
            ("rejected_from", "iteration"),
            ("weight", "none"),
        ):
            if (value := getattr(pairs, name)) != default:
                _refuse(f"pairs.{name}", value, f"{arm}, whose pairs do not come from scores of this run's", default)
    if cfg.run.arm == "random" and pairs.balanced_control and pairs.rejected_from != "iteration":
        _refuse(
            "pairs.balanced_control",
            True,
            f"pairs.rejected_from={pairs.rejected_from}: such a pair cannot be turned round",
            "false",
        )
    if cfg.run.arm == "sft_only":
        for name, default in (("consistency", "none"), ("weight", "none"), ("rejected_from", "iteration")):
            if (value := getattr(pairs, name)) != default:
                _refuse(f"pairs.{name}", value, f"{arm}, which trains on the chosen responses alone", default)


class _Reader(NamedTuple):
    """`settings` are read where `is_read`, which the value of `decided_by` says; `expected` of it in words."""

    settings: tuple[str, ...]
    is_read: bool
    decided_by: str
    expected: str


def _readers(cfg: Config) -> list[_Reader]:
    """The settings of methods that have an effect under another setting alone."""
    pairs, dpo, score = cfg.pairs, cfg.dpo, "pairs.score"
    rule = ("pairs.rule", "pairs.rho", "pairs.min_margin", "pairs.min_best", "pairs.max_per_prompt")
    loss = ("dpo.loss", "dpo.reference", "dpo.pairs_from", "dpo.label_smoothing")
    guards = tuple(f"judge_training.{name}" for name in ("rank", "share", "max_rise", "max_words"))
    return [
        _Reader(rule, cfg.run.arm != "external", "run.arm", "an arm that makes its own pairs, such as self"),
        _Reader(loss, cfg.run.arm != "sft_only", "run.arm", "an arm that trains by DPO, such as self"),
        _Reader(("pairs.rho",), pairs.rule == "length_controlled", "pairs.rule", "pairs.rule=length_controlled"),
        _Reader(("pairs.answer",), pairs.score in ("vote", "judge_vote"), score, "pairs.score=vote or judge_vote"),
        _Reader(("pairs.vote_weight",), pairs.score == "judge_vote", score, "pairs.score=judge_vote"),
        _Reader(
            ("checker.function", "checker.command", "checker.max_score"),
            pairs.score == "checker", score, "pairs.score=checker",
        ),
        _Reader(("reward_model.path",), pairs.score == "reward_model", score, "pairs.score=reward_model"),
        _Reader(guards, cfg.judge_training.method != "none", "judge_training.method", "a method, which makes judge pairs"),
        _Reader(("eft.num_comparisons", "eft.num_meta"), cfg.eft.source != "none", "eft.source", "EFT examples to make them of"),
        _Reader(("dpo.simpo_gamma",), dpo.loss == "simpo", "dpo.loss", "dpo.loss=simpo"),
        _Reader(("dpo.length_normalised",), dpo.loss != "simpo", "dpo.loss", "another loss: SimPO is per token as it is"),
        _Reader(("prompts.writer_path",), cfg.prompts.writer == "fixed", "prompts.writer", "prompts.writer=fixed"),
        _Reader(("api.url",), bool(cfg.api.stages), "api.stages", "the stages that ask the endpoint"),
        _Reader(("select.judge_path",), cfg.select.every > 0, "select.every", "checkpoints to choose from: select.every above 0"),
    ]  # fmt: skip


def _unread(cfg: Config) -> None:
    """Settings off their default that no part of the run would read."""
    default = Config()
    for settings, is_read, decided_by, expected in _readers(cfg):
        for key in settings:
            if not is_read and (value := attrgetter(key)(cfg)) != attrgetter(key)(default):
                beside = f"{decided_by}={attrgetter(decided_by)(cfg)}, with which nothing reads it"
                _refuse(key, value, beside, expected, f"leave {key} out, or set {decided_by} otherwise")


def _pairs(cfg: Config) -> None:
    """Settings with which no prompt can give a pair."""
    pairs, most = cfg.pairs, score_scale(cfg)
    if cfg.run.arm == "external":
        return  # its pairs are given
    beside = f"pairs.score={pairs.score}, whose largest score is {most:g}"
    if has_scale(cfg) and pairs.min_margin >= most:
        _refuse("pairs.min_margin", pairs.min_margin, beside,
                f"less than {most:g}: the difference of two scores is to be above it", "lower pairs.min_margin")  # fmt: skip
    if has_scale(cfg) and pairs.min_best > most:
        _refuse("pairs.min_best", pairs.min_best, beside,
                f"at most {most:g}: the best score is to reach it", "lower pairs.min_best")  # fmt: skip
    if pairs.score == "vote" and cfg.candidates.num < 3:
        _refuse("candidates.num", cfg.candidates.num, "pairs.score=vote, by which two answers have equal shares",
                "3 or more", "raise candidates.num")  # fmt: skip
    if cfg.candidates.temperature == 0:
        _refuse("candidates.temperature", 0, f"candidates.num={cfg.candidates.num}, which are then equal texts",
                "above 0: a pair has two texts", "raise candidates.temperature")  # fmt: skip


def _votes(cfg: Config) -> None:
    pairs = cfg.pairs
    if pairs.score in ("vote", "checker", "reward_model") and cfg.judge.shape == "pairwise":
        _refuse("judge.shape", "pairwise", f"pairs.score={pairs.score}, which judges no candidate", "pointwise")


def _checker(cfg: Config) -> None:
    given = [name for name in ("function", "command") if getattr(cfg.checker, name)]
    if cfg.pairs.score == "checker" and len(given) != 1:
        raise ConfigError(
            "pairs.score", f"checker with {' and '.join(f'checker.{name}' for name in given) or 'no checker'}",
            "one of checker.function and checker.command", "set exactly one of them",
        )  # fmt: skip


def _reward_model(cfg: Config) -> None:
    path, score = cfg.reward_model.path, cfg.pairs.score
    if score != "reward_model":
        return
    if not path:
        raise ConfigError("reward_model.path", '""', "the HF directory of a sequence classifier", "set it")
    if cfg.pairs.weight == "margin":
        _refuse("pairs.weight", "margin", "pairs.score=reward_model, whose logits have no scale", "pairs.weight=none")


def _consistency(cfg: Config) -> None:
    found = cfg.pairs.consistency
    if found == "none":
        return
    if cfg.pairs.score != "judge":
        _refuse(
            "pairs.consistency",
            found,
            f"pairs.score={cfg.pairs.score}",
            "pairs.score=judge: the rankings of two judges",
        )
    if "judge" in cfg.api.stages:
        _refuse("pairs.consistency", found, "the judge on an endpoint, which is the same in every iteration", "none")
    if cfg.dpo.label_smoothing:
        _refuse("pairs.consistency", found, f"dpo.label_smoothing={cfg.dpo.label_smoothing}",
                "one of them: both say how certain a label is")  # fmt: skip


def _anchors(cfg: Config) -> None:
    pairs = cfg.pairs
    if pairs.rejected_from == "iteration":
        return
    for name, wanted in (("score", "judge"), ("rule", "max_min"), ("max_per_prompt", 1)):
        if (value := getattr(pairs, name)) != wanted:
            _refuse("pairs.rejected_from", pairs.rejected_from, f"pairs.{name}={value}", f"pairs.{name}={wanted}")
    if "judge" in cfg.api.stages:
        _refuse(
            "pairs.rejected_from",
            pairs.rejected_from,
            "the judge on an endpoint",
            "a judge of this run, for both models",
        )


def _judge_training(cfg: Config) -> None:
    found = cfg.judge_training.method
    if found == "none":
        return
    if cfg.run.arm in ("external", "sft_only"):
        _refuse(
            "judge_training.method", found, f"run.arm={cfg.run.arm}", "an arm with judgements and DPO, such as self"
        )
    if cfg.pairs.score not in ("judge", "judge_vote"):
        _refuse(
            "judge_training.method", found, f"pairs.score={cfg.pairs.score}, which judges nothing", "pairs.score=judge"
        )
    if "judge" in cfg.api.stages:
        _refuse("judge_training.method", found, "the judge on an endpoint, which this run does not train", "none")
    if cfg.judge.method != "sampled" or cfg.judge.draws < 2:
        beside = f"judge.method={cfg.judge.method} and {cfg.judge.draws} draws"
        _refuse(
            "judge_training.method", found, beside, "judge.method=sampled with 2 draws or more: pairs of judgements"
        )
    if cfg.judge.temperature == 0:
        _refuse("judge.temperature", 0, f"judge_training.method={found}, whose draws are then one text",
                "above 0: a judge pair has two texts", "raise judge.temperature")  # fmt: skip


def _pairwise(cfg: Config) -> None:
    """A pairwise judge makes one score a candidate, from comparisons among the candidates of one model."""
    if cfg.judge.shape == "pointwise":
        return
    beside = {
        "pairs.consistency": (cfg.pairs.consistency, "none"), "pairs.rejected_from": (cfg.pairs.rejected_from, "iteration"),
        "judge_training.method": (cfg.judge_training.method, "none"), "judge.method": (cfg.judge.method, "sampled"),
        "judge.equal_texts": (cfg.judge.equal_texts, "each"),
    }  # fmt: skip
    for key, (found, wanted) in beside.items():
        if found != wanted:
            _refuse("judge.shape", "pairwise", f"{key}={found}", f"{key}={wanted}")


def _shared_prefix(cfg: Config) -> None:
    """What its rows need: a pack, and this project's attention in place of Transformer Engine's."""
    if not cfg.dpo.shared_prefix:
        return
    if not cfg.dpo.packing and cfg.parallel.context == 1:
        _refuse("dpo.shared_prefix", "true", "dpo.packing=false", "dpo.packing=true: prompt and responses share a row")
    gpus = cfg.cluster.gpus_per_node
    for setting in [*([f"cluster.gpus_per_node={gpus}"] if gpus else []), *gpu_settings(cfg)]:
        _refuse(
            "dpo.shared_prefix", "true", f"{setting}, for training on GPUs",
            "training on a CPU: Transformer Engine's fused attention has no mask for such rows",
            "set dpo.shared_prefix=false",
        )  # fmt: skip


def gpu_settings(cfg: Config) -> list[str]:
    """The settings, KEY=VALUE, under which a training needs GPUs, with Transformer Engine or CUDA."""
    precision = cfg.precision
    found = {
        f"precision.fp8={precision.fp8}": precision.fp8 != "none",
        "precision.cross_entropy=te": precision.cross_entropy == "te",
        f"precision.cuda_graphs={precision.cuda_graphs}": precision.cuda_graphs != "none",
        "parallel.tp_comm_overlap=true": cfg.parallel.tp_comm_overlap,
    }
    return [setting for setting, asked in found.items() if asked]
