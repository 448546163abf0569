"""eft: ranked replies -> examples of judging (eft_train.jsonl, SftExample of kind "eft").

source "baseline" (the paper): the SFT baseline writes one justification with score for every ranked reply; kept where
the ranking by score agrees with the data's, then balanced (see judge/eft.py); an instruct model (run.start) judges
itself. "external": the judgements come with the data and are kept unchanged where the score parses. "ranks": the targets
are made of the ranks alone. Further examples that compare (eft.num_comparisons, num_meta) are made of those that are kept.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.records import Judgement, RankedReply, SftExample, item_seed
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.data import templates
from nemo_srlm.data.words import BROKEN
from nemo_srlm.errors import DataError
from nemo_srlm.evaluate import compare_template
from nemo_srlm.generate.requests import Engine, Outcome, Request
from nemo_srlm.judge import eft, eft_comparisons
from nemo_srlm.judge.eft import JudgedReply
from nemo_srlm.judge.judgements import JudgeItem, sampled_judgement
from nemo_srlm.judge.scores import judge_input, parse_draws
from nemo_srlm.stages.common.generating import chat_ids, engine_identity, open_engine, run_requests, thinking_identity
from nemo_srlm.stages.common.judging import JUDGEMENTS


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    seed = {"seed": Ref("seed", 0)}
    judge = "export_base" if cfg.run.start == "instruct" else "export_baseline"
    return seed | {"model": Ref(judge, 0)} if cfg.eft.source == "baseline" else seed


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = {
        "eft": identity(cfg.eft),
        "template": templates.load(cfg.judge.template, templates.JUDGE),
        "max_score": cfg.judge.max_score,
    }
    if cfg.eft.source == "ranks":
        own["before_score"] = _before_score(cfg)
    if cfg.eft.num_comparisons:
        own["compare_template"] = compare_template.load_own("judge.compare_template", cfg.judge.compare_template)
    if cfg.eft.num_meta:
        own["meta_template"] = compare_template.load_own("judge_training.template", cfg.judge_training.template)
    if cfg.eft.source == "baseline":
        own["sampling"] = {name: identity(cfg.judge)[name] for name in ("temperature", "top_p", "max_tokens")}
        own |= engine_identity(cfg)
    if cfg.eft.source != "ranks":  # whose targets hold no thinking
        own |= thinking_identity(cfg)
    return own


def _shards(cfg: Config) -> int:
    return cfg.judge.shards if cfg.eft.source == "baseline" else 1


def _replies(ctx: Context) -> Iterator[RankedReply]:
    return read_records(ctx.inputs["seed"] / "ranked_train.jsonl", RankedReply)


def _run(ctx: Context) -> None:
    cfg = ctx.cfg
    if cfg.eft.source != "baseline":
        return  # nothing to generate: finalize reads the data
    template = templates.load(cfg.judge.template, templates.JUDGE)

    def request(engine: Engine, item_id: str, reply: RankedReply) -> Request:
        text = judge_input(template, reply.instruction, reply.response)
        return Request(
            item_id, chat_ids(ctx, engine, text), 1, item_seed(cfg.run.seed, "eft", item_id),
            cfg.judge.temperature, cfg.judge.top_p, cfg.judge.max_tokens, text=text,
        )  # fmt: skip

    def records(reply: RankedReply, outcome: Outcome) -> list[Judgement]:
        return [sampled_judgement(JudgeItem.of_ranked(reply), outcome, cfg.judge)]

    items = ((reply.id, reply) for reply in _replies(ctx))
    run_requests(ctx, items, lambda: open_engine(ctx, "model"), request, records, "replies")


def _before_score(cfg: Config) -> str:
    """What stands before the score in a target of eft.source=ranks: what the judge will see there, too."""
    if cfg.judge.lead_in:
        return cfg.judge.lead_in
    return f"{cfg.eft.justification.strip()}\n\nScore: ".lstrip()


def _external(replies: list[RankedReply], max_score: int, thinking_end: str) -> list[JudgedReply]:
    """The replies with the judgements that come with the data, whose scores are read as those of the run's judge."""
    return [
        JudgedReply(
            r, r.given_judgement, parse_draws((r.given_judgement,), ("stop",), max_score, r.response, thinking_end)[0]
        )
        for r in replies
    ]


def _generated(ctx: Context, replies: list[RankedReply], counts: Counter[str]) -> list[JudgedReply]:
    """The replies with the baseline's judgements. Writes judgements.jsonl.

    `counts` gets "errors"; "cut_off": judgements that reached max_tokens, which would teach not to end (a score before the
    cut still parses); and "broken_character": those with bytes that are no character, which would teach to write them.
    """
    merge_parts(ctx, Judgement, [reply.id for reply in replies], JUDGEMENTS)
    found = {row.id: row for row in read_records(ctx.dir / JUDGEMENTS, Judgement)}
    counts["errors"] = sum(1 for row in found.values() if row.error)
    written = {name: row for name, row in found.items() if not row.error}
    ended = {name: row for name, row in written.items() if row.finish_reasons[0] != "length"}
    counts["cut_off"] = len(written) - len(ended)
    whole = {name: row for name, row in ended.items() if BROKEN not in row.texts[0]}
    counts["broken_character"] = len(ended) - len(whole)
    return [JudgedReply(r, whole[r.id].texts[0], whole[r.id].scores[0]) for r in replies if r.id in whole]


def _finalize(ctx: Context) -> dict[str, Any]:
    """Keeps, balances and writes the examples. Raises DataError when none remains."""
    cfg, counts = ctx.cfg, Counter[str]()
    replies = list(_replies(ctx))
    counts["replies"] = len(replies)
    if cfg.eft.source == "external":
        judged = _external(replies, cfg.judge.max_score, cfg.judge.thinking_end)
        kept = eft.keep_parsed(judged, counts)
    elif cfg.eft.source == "ranks":
        kept = judged = eft.of_ranks(replies, cfg.judge.max_score, _before_score(cfg), counts)
    else:
        judged = _generated(ctx, replies, counts)
        kept = eft.balance(eft.keep_agreeing(judged, counts), cfg.eft.dominant_keep, counts)
    kept = eft.limit(kept, cfg.eft.num_train, counts)
    if not kept:
        raise DataError(
            ctx.dir, f"no EFT example is left ({dict(counts)})", "judgements whose score parses and agrees with the ranks",
            "see the judgements; a larger or better trained baseline, more seed data, eft.source=external; or eft.source=ranks, "
            "which needs no judge",
        )  # fmt: skip
    template = templates.load(cfg.judge.template, templates.JUDGE)
    scored, compared, meta = eft.examples(kept, template, counts), _comparisons(cfg, kept), _meta(cfg, kept, template)
    write_records(ctx.dir / "eft_train.jsonl", [*scored, *compared, *meta])
    return {
        "source": cfg.eft.source,
        "examples": len(scored),
        "comparisons": len(compared),
        "meta": len(meta),
        "asked": cfg.eft.num_train,
        "parsed": sum(item.score is not None for item in judged),
        "judging": None if cfg.eft.source == "ranks" else _judging(replies, judged, cfg.judge.max_score),
        "left_out": {name: count for name, count in sorted(counts.items()) if name != "replies"},
        "replies": counts["replies"],
        "scores_before": eft.score_counts(judged),
        "scores_after": eft.score_counts(kept),
        "summary": f"{len(scored)} examples of {counts['replies']} ranked replies ({cfg.eft.source})"
        + _made(len(compared), cfg.eft.num_comparisons, "compare two replies")
        + _made(len(meta), cfg.eft.num_meta, "compare two judgements")
        + _left_out(counts),
    }


def _comparisons(cfg: Config, kept: list[JudgedReply]) -> list[SftExample]:
    if not cfg.eft.num_comparisons:
        return []
    template = compare_template.load(cfg.judge.compare_template)
    return eft_comparisons.of_replies(kept, template.request, cfg.eft.num_comparisons)


def _meta(cfg: Config, kept: list[JudgedReply], judge_template: str) -> list[SftExample]:
    if not cfg.eft.num_meta:
        return []
    template = compare_template.load(cfg.judge_training.template)
    return eft_comparisons.of_judgements(kept, judge_template, template.request, cfg.eft.num_meta)


def _made(number: int, asked: int, what: str) -> str:
    return f", {number} of {asked} that {what}" if asked else ""


def _left_out(counts: Counter[str]) -> str:
    reasons = [f"{number} {reason}" for reason, number in sorted(counts.items()) if number and reason != "replies"]
    return f"; left out: {', '.join(reasons)}" if reasons else ""


def _judging(replies: list[RankedReply], judged: list[JudgedReply], max_score: int) -> dict[str, Any]:
    """How well the judgements order the replies, before any is left out: metrics of eval_reward."""
    from nemo_srlm.evaluate.reward_metrics import reward_metrics

    found = {
        item.reply.id: Judgement(item.reply.id, item.reply.instruction_id, (item.score,), (), ()) for item in judged
    }
    metrics = reward_metrics(replies, found, 1, max_score)
    return {name: metrics[name] for name in ("pairwise_accuracy", "intervals", "counts")}


STAGE = Stage("eft", "generate", _inputs, _identity, _run, _finalize, _shards)
