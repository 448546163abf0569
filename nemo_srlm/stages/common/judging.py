"""Judging in a stage: requests to the judge, its judgements appended to the shard's part, its identity and health.

An item is one response. Its draws are one request: the filled template as a user turn in chat format. An item that is
too long, or whose request fails, becomes a judgement with an error and without draws. `judge.method`:
- sampled (the paper): `judge.draws` sampled judgements; the score of each is parsed from its text;
- expected: one greedy judgement, or with `judge.lead_in` one token; see judge/expected.py.
"""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.generation import JudgeSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core.records import Judgement, item_seed
from nemo_srlm.core.stage import Context
from nemo_srlm.core.terminal import say
from nemo_srlm.data import templates
from nemo_srlm.data.tokenizer import Tokenizer
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.generate.requests import Engine, Outcome, Request
from nemo_srlm.judge import health as judge_health
from nemo_srlm.judge.expected import Digits, digit_tokens, expected_judgement, lead_in_tokens, led_judgement
from nemo_srlm.judge.judgements import JudgeItem, sampled_judgement
from nemo_srlm.judge.scores import judge_input
from nemo_srlm.stages.common.generating import chat_ids, engine_for, run_requests, stage_identity

JUDGEMENTS = "judgements.jsonl"


def judge_all(ctx: Context, items: Iterable[JudgeItem], *seed_parts: object, model: Path | None = None) -> None:
    """Judges `items` with the HF directory `model`, else the model of the input "model", appending to this shard's part.

    `seed_parts` (the stage's name first) and the item's id make an item's seed. Raises ConfigError for settings that
    cannot work.
    """
    cfg, judge = ctx.cfg, ctx.cfg.judge
    template = templates.load(judge.template, templates.JUDGE)
    stage, expected = str(seed_parts[0]), judge.method == "expected"

    @functools.cache
    def engine_of() -> Engine:
        own = ctx.inputs["model"] / "hf" if "model" in ctx.inputs else Path()  # none: an endpoint judges
        return engine_for(ctx, stage, model or own)

    def tokenizer(engine: Engine) -> Tokenizer:
        if engine.tokenizer is None:
            raise ConfigError("judge.method", "expected on an endpoint", "sampled", "set judge.method=sampled")
        return engine.tokenizer

    def digits(engine: Engine) -> tuple[Tokenizer, Digits]:
        return tokenizer(engine), digit_tokens(tokenizer(engine), judge.max_score)

    def lead_in(engine: Engine) -> tuple[tuple[int, ...], dict[int, int]]:
        return lead_in_tokens(tokenizer(engine), judge.lead_in, judge.max_score)

    def request(engine: Engine, item_id: str, item: JudgeItem) -> Request:
        text = judge_input(template, item.instruction, item.response)
        ids = chat_ids(ctx, engine, text)
        seed = item_seed(cfg.run.seed, *seed_parts, item_id)
        if judge.lead_in:
            before, scores = lead_in(engine)
            return Request(item_id, (*ids, *before), 1, seed, 0.0, 1.0, 1, logprob_ids=tuple(sorted(scores)), text=text)
        if expected:
            wanted = tuple(sorted({i for ids_of_digits in digits(engine)[1] for i in ids_of_digits}))
            return Request(item_id, ids, 1, seed, 0.0, 1.0, judge.max_tokens, logprob_ids=wanted, text=text)
        return Request(item_id, ids, judge.draws, seed, judge.temperature, judge.top_p, judge.max_tokens, text=text)

    def records(item: JudgeItem, outcome: Outcome) -> list[Judgement]:
        if judge.lead_in:
            return [led_judgement(item, outcome, judge.lead_in, lead_in(engine_of())[1])]
        if expected:
            return [expected_judgement(item, outcome, *digits(engine_of()), judge.max_score)]
        return [sampled_judgement(item, outcome, judge)]

    run_requests(ctx, ((item.id, item) for item in items), engine_of, request, records, "responses")


def judge_identity(cfg: Config, stage: str) -> dict[str, Any]:
    """What decides a judgement: the settings, the template's text (not its path), the engine's settings."""
    own = identity(cfg.judge)
    own["template"] = templates.load(cfg.judge.template, templates.JUDGE)
    for name in ("shape", "compare_template", "equal_texts"):  # of the judged candidates alone: their stages add them
        own.pop(name, None)
    return {"judge": own, **stage_identity(cfg, stage)}


def checked_health(
    ctx: Context, judgements: Iterable[Judgement], stops: bool, judge: JudgeSection | None = None
) -> dict[str, Any]:
    """The judge's health, with its alarms printed and recorded. judge: settings in the place of the config's.

    Raises DataError when there is no draw at all, and when an alarm is to stop the run.
    """
    cfg = ctx.cfg
    judge = judge or cfg.judge
    health = judge_health.health(judgements, judge)
    if health["judgements"] and not health["draws"]:
        raise DataError(
            ctx.dir, f"not one of {health['judgements']} items was judged: {health['errors']}", "judgements",
            "mend the cause (the errors are in parts/), remove the directory and run the same command again",
        )  # fmt: skip
    alarms = judge_health.alarms(health, judge, cfg.drift)
    for alarm in alarms:
        say(f"warning: {ctx.dir}: {alarm}", error=True)
    if alarms and stops:
        raise DataError(
            ctx.dir, "; ".join(alarms), "a healthy judge", "look at its judgements; judge.alarm_stops=false goes on"
        )
    return {**health, "alarms": alarms}


def check_usable(ctx: Context, health: dict[str, Any], note: str = "") -> None:
    """Raises DataError when not one judgement has a score: what reads them could make nothing of them.

    note: what else the stage knows of the reason.
    """
    if health["judgements"] and health["ineligible"] == health["judgements"]:
        why = "; ".join([note, *health["alarms"]] if note else health["alarms"])
        raise DataError(
            ctx.dir, f"not one of {health['judgements']} items has a score; {why}", "scores",
            f"look at the texts in its parts/; mend judge.template, judge.max_tokens or the judge{_taught(ctx.cfg)}, remove the "
            "directory and run the same command again",
        )  # fmt: skip


def _taught(cfg: Config) -> str:
    """How a judge that has only learned to write scores learns to compare."""
    return " (eft.num_comparisons teaches it to compare)" if cfg.judge.shape == "pairwise" else ""
