"""eft: ranked replies -> examples of judging (eft_train.jsonl, SftExample of kind "eft").

source "baseline" (the paper): the SFT baseline writes one justification with score for every ranked reply; kept where
the ranking by score agrees with the human one, then balanced (see nemo_srlm/eft.py). source "external": the data brings
the judgements; kept where the score parses, as they are. The held-out replies are the seed stage's ranked_valid.jsonl.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.records import Judgement, RankedReply, item_seed
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.data import templates
from nemo_srlm.errors import DataError
from nemo_srlm.generate.requests import Engine, Failure, Outcome, Request
from nemo_srlm.judge.eft import Judged, balance, example, keep_agreeing, keep_parsed, limit
from nemo_srlm.judge.scores import judge_input, parse_draws, parse_score
from nemo_srlm.stages.common.generating import chat_ids, engine_identity, open_engine, run_requests


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    seed = {"seed": Ref("seed", 0)}
    return seed | {"model": Ref("export_baseline", 0)} if cfg.eft.source == "baseline" else seed


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    own = {
        "eft": identity(cfg.eft),
        "template": templates.load(cfg.judge.template, templates.JUDGE),
        "max_score": cfg.judge.max_score,
    }
    if cfg.eft.source == "baseline":
        own["sampling"] = {name: identity(cfg.judge)[name] for name in ("temperature", "top_p", "max_tokens")}
        own |= engine_identity(cfg)
    return own


def _shards(cfg: Config) -> int:
    return cfg.judge.shards if cfg.eft.source == "baseline" else 1


def _replies(ctx: Context) -> Iterator[RankedReply]:
    return read_records(ctx.inputs["seed"] / "ranked_train.jsonl", RankedReply)


def _run(ctx: Context) -> None:
    cfg = ctx.cfg
    if cfg.eft.source == "external":
        return  # nothing to generate: finalize reads what the data brings
    template = templates.load(cfg.judge.template, templates.JUDGE)

    def request(engine: Engine, item_id: str, reply: RankedReply) -> Request:
        text = judge_input(template, reply.instruction, reply.response)
        return Request(
            item_id, chat_ids(engine, cfg, text), 1, item_seed(cfg.run.seed, "eft", item_id),
            cfg.judge.temperature, cfg.judge.top_p, cfg.judge.max_tokens, text=text,
        )  # fmt: skip

    def records(reply: RankedReply, outcome: Outcome) -> list[Judgement]:
        if isinstance(outcome, Failure):
            return [Judgement(reply.id, reply.instruction_id, (), (), (), outcome.reason)]
        texts, reasons = tuple(c.text for c in outcome), tuple(c.finish_reason for c in outcome)
        scores = parse_draws(texts, reasons, cfg.judge.max_score)
        return [Judgement(reply.id, reply.instruction_id, scores, texts, reasons)]

    items = ((reply.id, reply) for reply in _replies(ctx))
    run_requests(ctx, items, lambda: open_engine(ctx, "model"), request, records, "replies")


def _finalize(ctx: Context) -> dict[str, Any]:
    """Keeps, balances and writes the examples. Raises DataError when none is left."""
    cfg, counts = ctx.cfg, Counter[str]()
    replies = list(_replies(ctx))
    counts["replies"] = len(replies)
    if cfg.eft.source == "external":
        judged = [
            Judged(reply, reply.given_judgement, parse_score(reply.given_judgement, cfg.judge.max_score))
            for reply in replies
        ]
        kept = keep_parsed(judged, counts)
    else:
        merge_parts(ctx, Judgement, [reply.id for reply in replies], "judgements.jsonl")
        found = {row.id: row for row in read_records(ctx.dir / "judgements.jsonl", Judgement)}
        counts["errors"] = sum(1 for row in found.values() if row.error)
        judged = [Judged(reply, row.texts[0], row.scores[0]) for reply in replies if not (row := found[reply.id]).error]
        kept = balance(keep_agreeing(judged, counts), cfg.eft.dominant_keep, counts)
    kept = limit(kept, cfg.eft.num_train, counts)
    if not kept:
        raise DataError(
            ctx.dir, f"no EFT example is left ({dict(counts)})", "judgements whose score parses and agrees with humans",
            "see the judgements; a larger or better trained baseline, more seed data, or eft.source=external",
        )  # fmt: skip
    template = templates.load(cfg.judge.template, templates.JUDGE)
    examples = {made.id: made for made in (example(item, template) for item in kept)}
    counts["duplicate"] = len(kept) - len(examples)  # one text twice among the replies, judged in the same words
    number = write_records(ctx.dir / "eft_train.jsonl", examples.values())
    return {
        "source": cfg.eft.source,
        "examples": number,
        "asked": cfg.eft.num_train,
        "left_out": {name: count for name, count in sorted(counts.items()) if name != "replies"},
        "replies": counts["replies"],
        "scores_before": _shares(judged),
        "scores_after": _shares(kept),
        "summary": f"{number} examples of {counts['replies']} judged replies ({cfg.eft.source})",
    }


def _shares(items: Iterable[Judged]) -> dict[str, int]:
    """Number of items of each score."""
    counts = Counter("none" if item.score is None else f"{item.score:g}" for item in items)
    return dict(sorted(counts.items()))


STAGE = Stage("eft", "generate", _inputs, _identity, _run, _finalize, _shards)
