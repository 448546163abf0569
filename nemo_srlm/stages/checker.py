"""checker (pairs.score=checker): a function or program of the user's scores every candidate (judgements.jsonl, Judgement).

Resumes by candidate, as judging does. A candidate whose check fails has no score, and its reason is recorded and counted.
"""

import shutil
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.config.score_scale import has_scale, score_scale
from nemo_srlm.core import user_code
from nemo_srlm.core.files import content_digest
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.errors import ConfigError
from nemo_srlm.judge.checkers import Check, checked, command_check
from nemo_srlm.stages.common import judged_candidates, scored_candidates
from nemo_srlm.stages.common.working import run_items

KEY = "checker.function"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"prompts": Ref("prompts", iteration), "candidates": Ref("candidates", iteration)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = identity(cfg.checker)
    if _scale(cfg) is None:
        own.pop("max_score")  # of the pairs, which are made of these scores
    if cfg.checker.function:
        own.pop("timeout")  # a function is not interrupted
        own |= {"function": user_code.identity(KEY, cfg.checker.function), "command": []}
    else:
        files = [Path(word) for word in cfg.checker.command if Path(word).is_file()]
        own["files"] = [content_digest(path) for path in files]
    return {"checker": own}


def _scale(cfg: Config) -> float | None:
    """The largest score, where pairs weigh by it: one outside would weigh without limit."""
    return score_scale(cfg) if has_scale(cfg) else None


def _check(cfg: Config) -> None:
    """Raises ConfigError for a function, a program or a script of a program that is not there."""
    if not cfg.cluster.check_paths:
        return
    if cfg.checker.function:
        user_code.check(KEY, cfg.checker.function)
        return
    program, *words = cfg.checker.command
    if shutil.which(program) is None:
        raise ConfigError("checker.command", f"no program {program}", "a program on PATH, or its path", "correct it")
    for word in words:
        if word.endswith((".py", ".sh")) and not word.startswith("-") and not Path(word).is_file():
            raise ConfigError(
                "checker.command", f"no such file: {Path(word).absolute()}", "a script on this machine",
                "correct it, or set cluster.check_paths=false where only the nodes have it",
            )  # fmt: skip


def _check_of(cfg: Config) -> Check:
    if cfg.checker.function:
        found: Check = user_code.load(KEY, cfg.checker.function)
        return found
    return command_check(cfg.checker.command, cfg.checker.timeout)


def _run(ctx: Context) -> None:
    check, scale = _check_of(ctx.cfg), _scale(ctx.cfg)
    todo = ((item.id, item) for item in judged_candidates.items(ctx))
    run_items(ctx, todo, lambda item: checked(check, item, scale), ctx.cfg.checker.workers, "responses")


def _finalize(ctx: Context) -> dict[str, Any]:
    return scored_candidates.finalize(ctx, "checker")


STAGE = Stage("checker", "cpu", _inputs, _identity, _run, _finalize, lambda cfg: cfg.checker.shards, _check)
