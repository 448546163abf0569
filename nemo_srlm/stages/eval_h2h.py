"""eval_h2h: the model of an iteration against every evaluated model before it, on the held-out prompts.

Writes comparisons.jsonl (Comparison). The judge:
- tiny world with neither of the judges below named: the oracle's scores, read from the files of eval_oracle;
- otherwise a model, at temperature 0, each pair of responses in both orders (verdicts.jsonl): an OpenAI-compatible
  endpoint where `api.stages` names this stage; the HF directory `eval.h2h_judge_path` through vLLM; or, with neither,
  this iteration's own export (it judges itself: a first look, no evidence).
With eval.h2h_by=score the model scores each response alone (judgements.jsonl), and the higher score wins.
"""

from collections.abc import Iterator
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.pipeline import evaluated_models, has_oracle, model_name
from nemo_srlm.core.records import Candidate, Judgement, content_id
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.data.words import count_words
from nemo_srlm.errors import DataError
from nemo_srlm.evaluate import compare_template, headtohead
from nemo_srlm.evaluate.headtohead import Comparison, comparison_id
from nemo_srlm.evaluate.response_scores import oracle_levels
from nemo_srlm.judge.judgements import JudgeItem
from nemo_srlm.judge.scores import aggregate, required_valid
from nemo_srlm.stages.common import comparing, held_out
from nemo_srlm.stages.common.comparing import Pairing
from nemo_srlm.stages.common.generating import stage_identity, thinking_identity, usage_metrics
from nemo_srlm.stages.common.judge_model import judge_directory, judge_model_identity, needs_own_judge
from nemo_srlm.stages.common.judging import JUDGEMENTS, judge_all, judge_identity

NAME = "eval_h2h"
OUTPUT = "comparisons.jsonl"


def by_oracle(cfg: Config) -> bool:
    """Whether the oracle's scores decide: where there is an oracle and no judge is named."""
    return has_oracle(cfg) and needs_own_judge(cfg, NAME, cfg.eval.h2h_judge_path)


def by_score(cfg: Config) -> bool:
    """Whether the judge scores each response alone."""
    return cfg.eval.h2h_by == "score" and not by_oracle(cfg)


def _others(cfg: Config, iteration: int) -> list[tuple[str, int, str]]:
    """The models before that of `iteration`: (name, iteration, suffix of its stages)."""
    return evaluated_models(cfg, iteration)[:-1]


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    found = {"held_out": Ref("held_out", 0)}
    for name, t, suffix in [*_others(cfg, iteration), ("own", iteration, "")]:
        found[f"responses_{name}"] = Ref(f"eval_responses{suffix}", t)
        if by_oracle(cfg):
            found[f"scores_{name}"] = Ref(f"eval_oracle{suffix}", t)
    if not by_oracle(cfg) and needs_own_judge(cfg, NAME, cfg.eval.h2h_judge_path):
        found["judge"] = Ref("export", iteration)
    return found


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    if by_oracle(cfg):
        return {"judge": "oracle"}
    who = judge_model_identity(cfg, NAME, cfg.eval.h2h_judge_path, "eval.h2h_judge_path")
    if by_score(cfg):
        return {"by": "score", "who": who, **judge_identity(cfg, NAME)}
    return {
        "judge": who,
        "template": compare_template.load(cfg.eval.h2h_template).text,
        "max_tokens": cfg.judge.max_tokens,
        **thinking_identity(cfg),
        **stage_identity(cfg, NAME),
    }


def _responses(ctx: Context, name: str) -> dict[str, Candidate]:
    return {c.id: c for c in read_records(ctx.inputs[f"responses_{name}"] / "responses.jsonl", Candidate)}


def _pairings(ctx: Context) -> Iterator[Pairing]:
    """Sample k of a prompt against the other's sample k (equal ids). Raises DataError when the two do not match."""
    prompts = {p.id: p for p in held_out.read_prompts(ctx)}
    ours = _responses(ctx, "own")
    for other, _, _ in _others(ctx.cfg, ctx.iteration):
        theirs = _responses(ctx, other)
        if ours.keys() != theirs.keys():
            raise DataError(
                ctx.inputs[f"responses_{other}"], f"{len(ours.keys() ^ theirs.keys())} responses have no counterpart",
                "the same prompts and samples for every model", "run eval_responses again",
            )  # fmt: skip
        for key, response in ours.items():
            pair_id = comparison_id(response.prompt_id, response.index, model_name(ctx.iteration), other)
            yield Pairing(pair_id, other, prompts[response.prompt_id], response, theirs[key])


def _scored(ctx: Context) -> dict[str, JudgeItem]:
    """Every distinct response to a prompt, by the id of its judgement: equal texts have one score, whoever wrote them."""
    items = {}
    for pairing in _pairings(ctx):
        for response in (pairing.ours, pairing.theirs):
            if not response.error:
                item_id = _score_id(response)
                items[item_id] = JudgeItem(item_id, response.prompt_id, pairing.prompt.text, response.text)
    return items


def _score_id(response: Candidate) -> str:
    return content_id("h2h_score", response.prompt_id, response.text)


def _run(ctx: Context) -> None:
    if by_score(ctx.cfg):
        model = judge_directory(ctx, ctx.cfg.eval.h2h_judge_path)
        judge_all(ctx, _scored(ctx).values(), NAME, model=model)
    elif not by_oracle(ctx.cfg):
        judge = judge_directory(ctx, ctx.cfg.eval.h2h_judge_path)
        template = compare_template.load(ctx.cfg.eval.h2h_template)
        comparing.compare(ctx, NAME, _pairings(ctx), judge, template)


def _compare_by_verdicts(ctx: Context) -> list[Comparison]:
    pairings = list(_pairings(ctx))
    categories = held_out.categories(ctx, list({p.prompt.id: p.prompt for p in pairings}.values()))
    found = []
    for p, both in zip(pairings, comparing.merge_verdicts(ctx, pairings), strict=True):
        first, second = ("" if v is None else v.verdict for v in both)
        texts = tuple("" if v is None else v.error or v.text for v in both)
        words, other_words = count_words(p.ours.text), count_words(p.theirs.text)
        found.append(
            Comparison(
                p.id, p.prompt.id, model_name(ctx.iteration), p.other, headtohead.outcome(first, second), first, second, texts,
                categories[p.prompt.id], words, other_words,
            )
        )  # fmt: skip
    return found


def _compare_by_score(ctx: Context) -> list[Comparison]:
    pairings = list(_pairings(ctx))
    categories = held_out.categories(ctx, list({p.prompt.id: p.prompt for p in pairings}.values()))
    merge_parts(ctx, Judgement, _scored(ctx), JUDGEMENTS)
    valid = required_valid(ctx.cfg.judge)
    scores = {j.id: aggregate(j.scores, valid) for j in read_records(ctx.dir / JUDGEMENTS, Judgement)}
    found = []
    for p in pairings:
        ours, theirs = (scores.get(_score_id(response)) for response in (p.ours, p.theirs))
        outcome = "unjudged" if ours is None or theirs is None else headtohead.outcome_of_scores(ours, theirs)
        found.append(
            Comparison(
                p.id, p.prompt.id, model_name(ctx.iteration), p.other, outcome, category=categories[p.prompt.id],
                words=count_words(p.ours.text), other_words=count_words(p.theirs.text),
            )
        )  # fmt: skip
    return found


def _compare_by_oracle(ctx: Context) -> list[Comparison]:
    """A prompt's mean level over its samples against the other model's: one comparison per prompt."""
    prompts = list(held_out.read_prompts(ctx))
    ours, our_words = _levels(ctx, "own"), _words(ctx, "own")
    categories, found = held_out.categories(ctx, prompts), []
    for other, _, _ in _others(ctx.cfg, ctx.iteration):
        theirs, their_words = _levels(ctx, other), _words(ctx, other)
        for p in prompts:
            if p.id not in ours or p.id not in theirs:
                raise DataError(
                    ctx.inputs[f"scores_{other}"], f"no score for prompt {p.id}", "one for every held-out prompt"
                )
            found.append(
                Comparison(
                    comparison_id(p.id, 0, model_name(ctx.iteration), other), p.id, model_name(ctx.iteration), other,
                    headtohead.outcome_of_scores(ours[p.id], theirs[p.id]), category=categories[p.id],
                    words=our_words[p.id], other_words=their_words[p.id],
                )
            )  # fmt: skip
    return found


def _levels(ctx: Context, name: str) -> dict[str, float]:
    """Prompt id -> mean oracle level of a model's samples, as eval_oracle wrote them."""
    groups: dict[str, list[float]] = {}
    for row in oracle_levels(ctx.inputs[f"scores_{name}"] / "scores.jsonl"):
        groups.setdefault(row.prompt_id, []).append(row.level)
    return {prompt_id: sum(levels) / len(levels) for prompt_id, levels in groups.items()}


def _words(ctx: Context, name: str) -> dict[str, int]:
    """Words of a prompt's responses, rounded mean over its samples."""
    groups: dict[str, list[int]] = {}
    for c in _responses(ctx, name).values():
        groups.setdefault(c.prompt_id, []).append(count_words(c.text))
    return {prompt_id: round(sum(words) / len(words)) for prompt_id, words in groups.items()}


def _finalize(ctx: Context) -> dict[str, Any]:
    oracle = by_oracle(ctx.cfg)
    by_judge = _compare_by_score if by_score(ctx.cfg) else _compare_by_verdicts
    comparisons = (_compare_by_oracle if oracle else by_judge)(ctx)
    write_records(ctx.dir / OUTPUT, comparisons)
    judge = "oracle" if oracle else _judge_name(ctx)
    rows = []
    for other, _, _ in _others(ctx.cfg, ctx.iteration):
        these = [c for c in comparisons if c.other == other]
        rows.append({
            "model": model_name(ctx.iteration), "other": other, "judge": judge, **headtohead.summary(these),
            "categories": headtohead.by_category(these), "order_bias": headtohead.order_bias(these),
        })  # fmt: skip
    usage = {} if oracle else {"usage": usage_metrics(ctx)}
    return {"comparisons": rows, **usage, "summary": ", ".join(_summary_of(row) for row in rows)}


def _judge_name(ctx: Context) -> str:
    if NAME in ctx.cfg.api.stages:
        return ctx.cfg.api.model
    return ctx.cfg.eval.h2h_judge_path or f"{model_name(ctx.iteration)} itself"


def _summary_of(row: dict[str, Any]) -> str:
    if row["win"] is None:
        return f"{row['model']} vs {row['other']}: nothing judged"
    shares = "/".join(f"{100 * row[k]:.0f}" for k in ("win", "tie", "loss"))
    return f"{row['model']} vs {row['other']} {shares}"


STAGE = Stage(
    NAME, "generate", _inputs, _identity, _run, _finalize,
    lambda cfg: 1 if by_oracle(cfg) else cfg.judge.shards,
)  # fmt: skip
