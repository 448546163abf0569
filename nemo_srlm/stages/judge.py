"""judge: the policy scores every candidate (judgements.jsonl, Judgement, in the candidates' order).

An item is a candidate: its draws are one request on the filled template in chat format. What is too long, or what the
engine cannot answer, is a judgement with an error and without draws. `judge.method`:
- sampled (the paper): `judge.draws` sampled judgements; each one's score is parsed from its text;
- expected: one greedy judgement; its score is the expectation over the digit's probabilities where it states the score.
"""

import functools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.generation import JudgeSection
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.records import Candidate, Judgement, Prompt, item_seed
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.data import templates
from nemo_srlm.data.tokenizer import Tokenizer
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.generate.requests import Completion, Engine, Failure, Outcome, Request
from nemo_srlm.judge import health as judge_health
from nemo_srlm.judge import scores as judge_scores
from nemo_srlm.stages.common.generating import chat_ids, engine_for, run_requests, stage_identity, usage_metrics

OUTPUT = "judgements.jsonl"
_SCORE_IS_NEXT = re.compile(r"score[^\w\n]*:[^\w\n]*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Judged:
    """What is to be judged."""

    id: str
    prompt_id: str
    instruction: str
    response: str


@functools.lru_cache(maxsize=2)
def digit_tokens(tokenizer: Tokenizer, max_score: int) -> tuple[dict[int, int], ...]:
    """The ways in which the tokenizer writes a score: token id -> score, one mapping for each (after a space or not).

    Raises ConfigError when some score is not one token of its own: then there is no distribution to read.
    """
    families = []
    for text in ("Score: {}", "Score:{}"):
        ids = {tokenizer.encode(text.format(score))[-1]: score for score in range(max_score + 1)}
        if len(ids) == max_score + 1 and all(tokenizer.decode([i]).strip() == str(s) for i, s in ids.items()):
            families.append(ids)
    if not families:
        raise ConfigError(
            "judge.method", f"expected, but the tokenizer does not write each of 0..{max_score} as one token",
            "sampled", "set judge.method=sampled",
        )  # fmt: skip
    return tuple(families)


def expected_score(
    draw: Completion, tokenizer: Tokenizer, families: Sequence[dict[int, int]], max_score: int
) -> tuple[float, float] | None:
    """(mean, standard deviation) of the score at the digit with which the text states it; None when it states none."""
    stated = judge_scores.parse_score(draw.text, max_score, draw.finish_reason == "length")
    if stated is None:
        return None
    for position in range(len(draw.token_ids) - 1, -1, -1):
        for family in families:
            token = draw.token_ids[position]
            if token in family and family[token] == stated:
                before = tokenizer.decode(list(draw.token_ids[:position]))
                if _SCORE_IS_NEXT.search(before):
                    return judge_scores.expectation({s: draw.logprobs[position][i] for i, s in family.items()})
    return None


def to_judgement(item: Judged, outcome: Outcome, judge: JudgeSection) -> Judgement:
    """Sampled draws as a record: a score or None a draw; an error and no draws where the engine failed."""
    if isinstance(outcome, Failure):
        return Judgement(item.id, item.prompt_id, (), (), (), outcome.reason)
    texts, reasons = tuple(d.text for d in outcome), tuple(d.finish_reason for d in outcome)
    scores = judge_scores.parse_draws(texts, reasons, judge.max_score)
    return Judgement(item.id, item.prompt_id, scores, texts, reasons)


def to_expected(
    item: Judged, outcome: Outcome, judge: JudgeSection, tokenizer: Tokenizer, families: Sequence[dict[int, int]]
) -> Judgement:
    """The one greedy draw with its expected score and spread."""
    if isinstance(outcome, Failure):
        return Judgement(item.id, item.prompt_id, (), (), (), outcome.reason)
    (draw,) = outcome
    found = expected_score(draw, tokenizer, families, judge.max_score)
    score, spread = found or (None, None)
    return Judgement(item.id, item.prompt_id, (score,), (draw.text,), (draw.finish_reason,), spread=spread)


def judge_all(ctx: Context, items: Iterable[Judged], *seed_parts: object, model: Path | None = None) -> None:
    """Judges `items` with the HF directory `model`, else the model of the input "model", appending to this shard's part.

    `seed_parts` (the stage's name first) and the item's id make an item's seed. Raises ConfigError for settings that cannot work.
    """
    cfg, judge = ctx.cfg, ctx.cfg.judge
    template = templates.load(judge.template, templates.JUDGE)
    stage, expected = str(seed_parts[0]), judge.method == "expected"

    @functools.cache
    def engine_of() -> Engine:
        own = ctx.inputs["model"] / "hf" if "model" in ctx.inputs else Path()  # none: an endpoint judges
        return engine_for(ctx, stage, model or own)

    def digits(engine: Engine) -> tuple[Tokenizer, tuple[dict[int, int], ...]]:
        if engine.tokenizer is None:
            raise ConfigError("judge.method", "expected on an endpoint", "sampled", "set judge.method=sampled")
        return engine.tokenizer, digit_tokens(engine.tokenizer, judge.max_score)

    def request(engine: Engine, item_id: str, item: Judged) -> Request:
        text = judge_scores.judge_input(template, item.instruction, item.response)
        ids = chat_ids(engine, cfg, text)
        seed = item_seed(cfg.run.seed, *seed_parts, item_id)
        if expected:
            wanted = tuple(sorted({i for family in digits(engine)[1] for i in family}))
            return Request(item_id, ids, 1, seed, 0.0, 1.0, judge.max_tokens, logprob_ids=wanted, text=text)
        return Request(item_id, ids, judge.draws, seed, judge.temperature, judge.top_p, judge.max_tokens, text=text)

    def records(item: Judged, outcome: Outcome) -> list[Judgement]:
        if expected:
            return [to_expected(item, outcome, judge, *digits(engine_of()))]
        return [to_judgement(item, outcome, judge)]

    run_requests(ctx, ((item.id, item) for item in items), engine_of, request, records, "replies")


def judge_identity(cfg: Config, stage: str) -> dict[str, Any]:
    """What makes a judgement: the settings, the template's text (not its path), the engine's."""
    own = identity(cfg.judge)
    own["template"] = templates.load(cfg.judge.template, templates.JUDGE)
    return {"judge": own, **stage_identity(cfg, stage)}


def checked_health(ctx: Context, judgements: Iterable[Judgement], stops: bool) -> dict[str, Any]:
    """The judge's health, with its alarms printed and recorded. Raises DataError when an alarm is to stop the run."""
    cfg = ctx.cfg
    health = judge_health.health(judgements, cfg.judge)
    alarms = list(judge_health.alarms(health, cfg.judge))
    for alarm in alarms:
        print(f"warning: {ctx.dir}: {alarm}", file=sys.stderr, flush=True)
    if alarms and stops:
        raise DataError(
            ctx.dir, "; ".join(alarms), "a healthy judge", "look at its judgements; judge.alarm_stops=false goes on"
        )
    return {**health, "alarms": alarms}


def _items(ctx: Context) -> Iterator[Judged]:
    """The candidates that were made, with their prompts' texts."""
    texts = {p.id: p.text for p in read_records(ctx.inputs["prompts"] / "prompts.jsonl", Prompt)}
    for candidate in read_records(ctx.inputs["candidates"] / "candidates.jsonl", Candidate):
        if not candidate.error:
            yield Judged(candidate.id, candidate.prompt_id, texts[candidate.prompt_id], candidate.text)


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    refs = {"prompts": Ref("prompts", iteration), "candidates": Ref("candidates", iteration)}
    return refs if "judge" in cfg.api.stages else refs | {"model": Ref("export", iteration - 1)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return judge_identity(cfg, "judge")


def _run(ctx: Context) -> None:
    judge_all(ctx, _items(ctx), "judge", ctx.iteration)


def _finalize(ctx: Context) -> dict[str, Any]:
    made = read_records(ctx.inputs["candidates"] / "candidates.jsonl", Candidate)
    merge_parts(ctx, Judgement, (candidate.id for candidate in made if not candidate.error), OUTPUT)
    health = checked_health(ctx, read_records(ctx.dir / OUTPUT, Judgement), ctx.cfg.judge.alarm_stops)
    failure, mean = health["parse_failure"] or 0.0, health["score_mean"]
    shown = "no score" if mean is None else f"mean score {mean:.2f}"
    return {
        **health,
        "engine": usage_metrics(ctx),
        "summary": f"{health['judgements']} judged, {shown}, {failure:.1%} without a score",
    }


STAGE = Stage("judge", "generate", _inputs, _identity, _run, _finalize, lambda cfg: cfg.judge.shards)
