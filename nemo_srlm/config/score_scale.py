"""The scale of the scores that order candidates, for the weights of pairs and for the checks of a config."""

from nemo_srlm.config.schema import Config


def score_scale(cfg: Config) -> float:
    """The largest score that a candidate can have, and so the largest difference of two; see `has_scale`."""
    if cfg.run.arm == "oracle":
        return cfg.judge.max_score
    scales = {"vote": 1, "judge_vote": cfg.judge.max_score + cfg.pairs.vote_weight, "checker": cfg.checker.max_score}
    return scales.get(cfg.pairs.score, cfg.judge.max_score)


def has_scale(cfg: Config) -> bool:
    """Whether every score is within 0 and `score_scale`: a reward model's are not, a checker's where pairs weigh by them."""
    if cfg.run.arm == "oracle":
        return True
    return cfg.pairs.score != "reward_model" and (cfg.pairs.score != "checker" or cfg.pairs.weight == "margin")
