"""The rules between the settings of methods that came after the paper: what would be ignored is refused."""

from nemo_srlm.config.generation import PairsSection
from nemo_srlm.config.methods import CheckerSection, JudgeTrainingSection
from nemo_srlm.config.schema import Config
from nemo_srlm.config.score_scale import has_scale, score_scale
from nemo_srlm.config.training import DpoSection
from nemo_srlm.errors import ConfigError

LATER = "leave it at its default"


def check_methods(cfg: Config) -> None:
    """Raises ConfigError naming the first setting that another one makes impossible or meaningless."""
    _arms(cfg)
    _pairs(cfg)
    _loss(cfg)
    _votes(cfg)
    _checker(cfg)
    _reward_model(cfg)
    _consistency(cfg)
    _anchors(cfg)
    _judge_training(cfg)
    _pairwise(cfg)
    _compared_eft(cfg)
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


def _pairs(cfg: Config) -> None:
    """Settings with which no prompt can give a pair, and what the rule of pairs does not read."""
    pairs, most = cfg.pairs, score_scale(cfg)
    if pairs.rho and pairs.rule != "length_controlled":
        _refuse("pairs.rho", pairs.rho, f"pairs.rule={pairs.rule}", "pairs.rule=length_controlled")
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


def _loss(cfg: Config) -> None:
    if cfg.dpo.loss != "simpo" and cfg.dpo.simpo_gamma != DpoSection().simpo_gamma:
        _refuse("dpo.simpo_gamma", cfg.dpo.simpo_gamma, f"dpo.loss={cfg.dpo.loss}", "dpo.loss=simpo")


def _votes(cfg: Config) -> None:
    pairs = cfg.pairs
    if pairs.score != "judge_vote" and pairs.vote_weight != PairsSection().vote_weight:
        _refuse("pairs.vote_weight", pairs.vote_weight, f"pairs.score={pairs.score}", "pairs.score=judge_vote")
    if pairs.score in ("vote", "checker", "reward_model") and cfg.judge.shape == "pairwise":
        _refuse("judge.shape", "pairwise", f"pairs.score={pairs.score}, which judges no candidate", "pointwise")


def _checker(cfg: Config) -> None:
    given = [name for name in ("function", "command") if getattr(cfg.checker, name)]
    if cfg.pairs.score != "checker" and given:
        _refuse(f"checker.{given[0]}", getattr(cfg.checker, given[0]), f"pairs.score={cfg.pairs.score}, which asks no checker",
                "pairs.score=checker", f"set pairs.score=checker, or leave checker.{given[0]} out")  # fmt: skip
    if cfg.pairs.score != "checker" and cfg.checker.max_score != CheckerSection().max_score:
        _refuse("checker.max_score", cfg.checker.max_score, f"pairs.score={cfg.pairs.score}", "pairs.score=checker")
    if cfg.pairs.score == "checker" and len(given) != 1:
        raise ConfigError(
            "pairs.score", f"checker with {' and '.join(f'checker.{name}' for name in given) or 'no checker'}",
            "one of checker.function and checker.command", "set exactly one of them",
        )  # fmt: skip


def _reward_model(cfg: Config) -> None:
    path, score = cfg.reward_model.path, cfg.pairs.score
    if path and score != "reward_model":
        _refuse("reward_model.path", path, f"pairs.score={score}, which asks no reward model", "pairs.score=reward_model",
                "set pairs.score=reward_model, or leave reward_model.path out")  # fmt: skip
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
        for name in ("rank", "share", "max_rise", "max_words"):
            if (value := getattr(cfg.judge_training, name)) != getattr(JudgeTrainingSection(), name):
                _refuse(f"judge_training.{name}", value, "judge_training.method=none, which makes no judge pair",
                        "a method", f"set judge_training.method, or leave {name} at its default")  # fmt: skip
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


def _compared_eft(cfg: Config) -> None:
    for name, value in (("num_comparisons", cfg.eft.num_comparisons), ("num_meta", cfg.eft.num_meta)):
        if cfg.eft.source == "none" and value:
            _refuse(f"eft.{name}", value, "eft.source=none: they are made of EFT examples", "another eft.source")


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
