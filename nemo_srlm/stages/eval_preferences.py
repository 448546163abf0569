"""eval_preferences (eval.preferences): a model as a judge of preference files, by the metrics of eval_reward.

Writes ranked.jsonl (RankedReply), judgements.jsonl (Judgement) and files.json (which file has which reply); metrics for each
file by its name.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import content_digest, read_records, write_json, write_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.records import Judgement, RankedReply
from nemo_srlm.core.stage import Context, Stage
from nemo_srlm.data.ranked_replies import read_ranked
from nemo_srlm.errors import ConfigError
from nemo_srlm.judge.judgements import JudgeItem
from nemo_srlm.judge.scores import required_valid
from nemo_srlm.stages.common.evaluating import of_model, require
from nemo_srlm.stages.common.generating import usage_metrics
from nemo_srlm.stages.common.judging import JUDGEMENTS, checked_health, judge_all, judge_identity

RANKED, FILES = "ranked.jsonl", "files.json"


def _files(cfg: Config) -> list[Path]:
    paths = [require("eval.preferences", path, "preference files") for path in cfg.eval.preferences]
    if len({path.name for path in paths}) < len(paths):
        raise ConfigError(
            "eval.preferences", "two files of one name", "different names: metrics are told apart by them"
        )
    return paths


def _check(cfg: Config) -> None:
    _files(cfg)


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = {
        "preferences": {path.name: content_digest(path) for path in _files(cfg)},
        "preferences_max": cfg.eval.preferences_max,
        "bootstrap": cfg.eval.bootstrap,
    }
    return {"eval": own, "seed": {"language": cfg.seed.language}, **judge_identity(cfg, "eval_preferences")}


def _read(ctx: Context) -> dict[str, tuple[list[RankedReply], dict[str, int]]]:
    """File name -> (its ranked replies, counts)."""
    found = {}
    for path in _files(ctx.cfg):
        counts: Counter[str] = Counter()
        replies = read_ranked(path, ctx.cfg.seed.language, ctx.cfg.eval.preferences_max, counts)
        found[path.name] = replies, dict(sorted(counts.items()))
    return found


def _distinct(ctx: Context) -> dict[str, RankedReply]:
    """All files' replies by id: a reply that is in two files is judged once."""
    return {reply.id: reply for replies, _ in _read(ctx).values() for reply in replies}


def _run(ctx: Context) -> None:
    # No iteration in the seed: every model judges with the same seeds.
    judge_all(ctx, map(JudgeItem.of_ranked, _distinct(ctx).values()), "eval_preferences")


def _finalize(ctx: Context) -> dict[str, Any]:
    from nemo_srlm.evaluate.reward_metrics import reward_metrics

    cfg, replies = ctx.cfg, _distinct(ctx)
    write_records(ctx.dir / RANKED, replies.values())
    write_json(ctx.dir / FILES, {name: [reply.id for reply in own] for name, (own, _) in _read(ctx).items()})
    merge_parts(ctx, Judgement, list(replies), JUDGEMENTS)
    judgements = {j.id: j for j in read_records(ctx.dir / JUDGEMENTS, Judgement)}
    files: dict[str, Any] = {}
    for name, (own, counts) in _read(ctx).items():
        metrics = reward_metrics(
            own, judgements, required_valid(cfg.judge), cfg.judge.max_score, cfg.eval.bootstrap > 0
        )
        files[name] = {**metrics, "data": counts}
    shown = ((name, m["pairwise_accuracy"]) for name, m in files.items())
    return {
        "files": files,
        "health": checked_health(ctx, judgements.values(), stops=False),
        "engine": usage_metrics(ctx),
        "summary": ", ".join(f"{name} " + ("nothing judged" if a is None else f"{100 * a:.1f}%") for name, a in shown),
    }


def _stage(suffix: str) -> Stage:
    return Stage(
        f"eval_preferences{suffix}", "generate", of_model(f"export{suffix}"), _identity, _run, _finalize,
        lambda cfg: cfg.judge.shards, check=_check,
    )  # fmt: skip


STAGE, BASELINE, BASE = _stage(""), _stage("_baseline"), _stage("_base")
