"""reward_model (pairs.score=reward_model): a sequence classifier scores every candidate by vLLM (judgements.jsonl, Judgement).

Its logit is the score. Resumes by candidate, as judging does.
"""

import math
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_json
from nemo_srlm.core.records import Judgement
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.data.chat import assistant, user
from nemo_srlm.errors import ConfigError
from nemo_srlm.generate.requests import Engine, Failure, Outcome, Request
from nemo_srlm.judge.judgements import JudgeItem
from nemo_srlm.stages.common import judged_candidates, scored_candidates
from nemo_srlm.stages.common.generating import chat_of, run_requests, usage_metrics
from nemo_srlm.stages.common.judge_model import judge_files

NAME, KEY = "reward_model", "reward_model.path"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"prompts": Ref("prompts", iteration), "candidates": Ref("candidates", iteration)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = {"model": judge_files(cfg.reward_model.path, KEY)}
    return own | {"generate": identity(cfg.generate), "chat": identity(cfg.chat)}


def _check(cfg: Config) -> None:
    """Raises ConfigError for a directory that holds no sequence classifier with one label."""
    if not cfg.cluster.check_paths:
        return
    judge_files(cfg.reward_model.path, KEY)
    config = read_json(Path(cfg.reward_model.path) / "config.json")
    kinds = config.get("architectures") or ["no architecture"]
    labels = config.get("num_labels") or len(config.get("id2label") or "ab")  # transformers' default: two
    if not kinds[0].endswith("ForSequenceClassification") or labels != 1:
        raise ConfigError(
            KEY, f"{kinds[0]} with {labels} labels in {cfg.reward_model.path}", "a sequence classifier with one label",
            "name a reward model; what scores in another way is a checker (docs/methods.md)",
        )  # fmt: skip


def _request(ctx: Context, engine: Engine, item_id: str, item: JudgeItem) -> Request:
    assert engine.tokenizer is not None
    ids = chat_of(ctx, engine.tokenizer).conversation([user(item.instruction), assistant(item.response)]).ids
    return Request(item_id, tuple(ids.tolist()), n=1, seed=0, temperature=0.0, top_p=1.0, max_tokens=0)


def _judgement(item: JudgeItem, outcome: Outcome) -> Judgement:
    if isinstance(outcome, Failure):
        return Judgement(item.id, item.prompt_id, (), (), (), outcome.reason)
    score = outcome[0].score
    if score is None or not math.isfinite(score):
        return Judgement(item.id, item.prompt_id, (), (), (), f"engine: a score of {score}")
    return Judgement(item.id, item.prompt_id, (score,), ("",), ("stop",))


def _run(ctx: Context) -> None:
    from nemo_srlm.generate import vllm_engine

    def engine() -> Engine:
        return vllm_engine.shared(ctx.slot, Path(ctx.cfg.reward_model.path), ctx.cfg, vllm_engine.VllmClassifier)

    todo = ((item.id, item) for item in judged_candidates.items(ctx))
    run_requests(
        ctx, todo, engine, lambda running, item_id, item: _request(ctx, running, item_id, item),
        lambda item, outcome: [_judgement(item, outcome)], "responses",
    )  # fmt: skip


def _finalize(ctx: Context) -> dict[str, Any]:
    return {**scored_candidates.finalize(ctx, "reward model"), "engine": usage_metrics(ctx)}


STAGE = Stage(NAME, "generate", _inputs, _identity, _run, _finalize, lambda cfg: cfg.reward_model.shards, _check)
