"""votes (pairs.score=vote, judge_vote): the share of a prompt's candidates with the same final answer (judgements.jsonl).

One draw per candidate: its score is the share, its text the answer (ScPO, arXiv 2411.04109). Nothing is judged.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core import user_code
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.records import Judgement
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.errors import DataError
from nemo_srlm.judge import answers
from nemo_srlm.judge.judgements import JudgeItem
from nemo_srlm.stages.common import judged_candidates
from nemo_srlm.stages.common.judging import JUDGEMENTS

KEY = "pairs.answer"
NO_ANSWER = "no_answer"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"prompts": Ref("prompts", iteration), "candidates": Ref("candidates", iteration)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    named = cfg.pairs.answer
    # once numbers between letters of any script were left out
    read = {"digits": "of any script"} if named == "number" else {}
    return {"answer": named if named in answers.EXTRACTORS else user_code.identity(KEY, named), **read}


def _check(cfg: Config) -> None:
    """Raises ConfigError for a function of the user's that is not there."""
    if cfg.cluster.check_paths and cfg.pairs.answer not in answers.EXTRACTORS:
        user_code.check(KEY, cfg.pairs.answer)


def _extractor(cfg: Config) -> answers.Extractor:
    return answers.EXTRACTORS.get(cfg.pairs.answer) or user_code.load(KEY, cfg.pairs.answer)


def _answer(extract: answers.Extractor, item: JudgeItem) -> str | None:
    """Raises DataError where a function of the user's fails: answers of a part of the responses would be another vote."""
    try:
        found = extract(item.instruction, item.response)
    except (Exception, SystemExit) as error:
        raise DataError(
            KEY, f"{type(error).__name__}: {error}, for candidate {item.id}", "a text or None", "mend it"
        ) from error
    if found is not None and not isinstance(found, str):
        raise DataError(KEY, f"returns a {type(found).__name__} for candidate {item.id}", "a text or None", "mend it")
    if found is not None and any("\ud800" <= character <= "\udfff" for character in found):
        raise DataError(
            KEY, f"returns {found[:40]!r} for candidate {item.id}, with half a character", "a text or None", "mend it"
        )
    return found if found and found.strip() else None


def _votes(ctx: Context) -> Iterator[Judgement]:
    extract = _extractor(ctx.cfg)
    for _, group in groupby(judged_candidates.items(ctx), key=lambda item: item.prompt_id):
        items = list(group)
        found = [_answer(extract, item) for item in items]
        for item, answer, share in zip(items, found, answers.shares(found), strict=True):
            if answer is None or share is None:
                yield Judgement(item.id, item.prompt_id, (), (), (), NO_ANSWER)
            else:
                yield Judgement(item.id, item.prompt_id, (share,), (answer,), ("stop",))


def _run(ctx: Context) -> None:
    write_records(ctx.dir / JUDGEMENTS, _votes(ctx))


def _finalize(ctx: Context) -> dict[str, Any]:
    """Raises DataError when not one response has an answer."""
    made = list(read_records(ctx.dir / JUDGEMENTS, Judgement))
    shares = [score for vote in made for score in vote.scores if score is not None]
    if made and not shares:
        raise DataError(
            ctx.dir, f"not one of {len(made)} responses has an answer by {KEY}={ctx.cfg.pairs.answer}", "answers",
            "set another pairs.answer",
        )  # fmt: skip
    best = Counter[str]()
    for _, group in groupby(made, key=lambda vote: vote.prompt_id):
        top = max((vote.scores[0] or 0.0 for vote in group if vote.scores), default=None)
        best["none" if top is None else "majority" if top > 0.5 else "plurality"] += 1
    mean = sum(shares) / len(shares) if shares else None
    return {
        "candidates": len(made), "no_answer": len(made) - len(shares), "share_mean": mean, "prompts": dict(sorted(best.items())),
        "summary": f"{len(made)} responses, {len(made) - len(shares)} without an answer"
        + ("" if mean is None else f", mean share {mean:.2f}"),
    }  # fmt: skip


STAGE = Stage("votes", "cpu", _inputs, _identity, _run, _finalize, check=_check)
