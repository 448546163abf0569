"""oracle_scores (run.arm=oracle, tiny only): the oracle instead of the judge, the upper bound of what judging can give.

No other arm has this stage. One draw per candidate; a prompt that is no question of the tiny world gets no score and so
no pair.
"""

from typing import Any

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.records import Candidate, Judgement, Prompt
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.tiny_world import oracle

OUTPUT = "judgements.jsonl"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"prompts": Ref("prompts", iteration), "candidates": Ref("candidates", iteration)}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    return {}


def judge(prompt: str, candidate: Candidate) -> Judgement:
    """The oracle's score as the one draw of a judgement."""
    if candidate.error:
        return Judgement(candidate.id, candidate.prompt_id, (), (), (), "candidate_failed")
    found = oracle.score(prompt, candidate.text)
    scores = (None if found is None else float(found.level),)
    return Judgement(candidate.id, candidate.prompt_id, scores, ("",), ("stop",))


def _run(ctx: Context) -> None:
    texts = {prompt.id: prompt.text for prompt in read_records(ctx.inputs["prompts"] / "prompts.jsonl", Prompt)}
    candidates = read_records(ctx.inputs["candidates"] / "candidates.jsonl", Candidate)
    write_records(ctx.dir / OUTPUT, (judge(texts[c.prompt_id], c) for c in candidates))


def _finalize(ctx: Context) -> dict[str, Any]:
    judgements = list(read_records(ctx.dir / OUTPUT, Judgement))
    scores = [score for judgement in judgements for score in judgement.scores]
    known = [score for score in scores if score is not None]
    return {
        "num_candidates": len(judgements),
        "no_question": len(scores) - len(known),
        "candidate_failed": sum(bool(judgement.error) for judgement in judgements),
        "mean_score": sum(known) / len(known) if known else None,
    }


STAGE = Stage("oracle_scores", "cpu", _inputs, _identity, _run, _finalize)
