"""Samples of the texts: prompts with candidates and judgements, and the responses of every model to the same prompts.

The samples are chosen by a hash of the id: arbitrary, but the same in every report of a run.
"""

from typing import Any

from nemo_srlm.core.files import read_records
from nemo_srlm.core.pipeline import evaluated_models, model_name
from nemo_srlm.core.records import Candidate, Judgement, PreferencePair, Prompt, content_id
from nemo_srlm.evaluate.response_scores import oracle_levels
from nemo_srlm.judge.pair_files import read_dropped
from nemo_srlm.judge.scores import aggregate
from nemo_srlm.report.run_files import Data, RunFiles

NUM_PAIRS = 16  # prompts of an iteration that gave a pair
NUM_DROPPED = 8  # prompts of an iteration that gave none, spread over the reasons
NUM_SAME_PROMPT = 12  # held-out prompts with the responses of every model
MAX_CHARS = 4000  # of one text in the report; the run's files hold all of it


def clip(text: str) -> str:
    return text if len(text) <= MAX_CHARS else text[:MAX_CHARS] + f" [... {len(text) - MAX_CHARS} more characters]"


def _shuffled(ids: list[str]) -> list[str]:
    return sorted(ids, key=lambda i: content_id("sample", i))


def _spread(reasons: dict[str, str], wanted: int) -> list[str]:
    """Up to `wanted` ids, taking one of each reason in turn."""
    queues: dict[str, list[str]] = {}
    for item in _shuffled(list(reasons)):
        queues.setdefault(reasons[item], []).append(item)
    chosen: list[str] = []
    while len(chosen) < wanted and any(queues.values()):
        for queue in queues.values():
            if queue and len(chosen) < wanted:
                chosen.append(queue.pop(0))
    return chosen


def read(files: RunFiles, t: int) -> Data | None:
    """{"iteration", "policy", "items": [...]} of iteration t; None until its candidates are finished."""
    prompts, candidates = files.path(t, "prompts", "prompts.jsonl"), files.path(t, "candidates", "candidates.jsonl")
    if prompts is None or candidates is None:
        return None
    judge = files.judgements(t)
    kept, dropped = (files.path(t, *name) for name in (("pairs", "pairs.jsonl"), ("pairs", "dropped.jsonl")))
    pairs = {p.prompt_id: p for p in read_records(kept, PreferencePair)} if kept else {}
    reasons = {row.prompt_id: row.reason for row in read_dropped(dropped)} if dropped else {}
    every = {p.id: p for p in read_records(prompts, Prompt)}
    chosen = _shuffled(list(pairs))[:NUM_PAIRS] + _spread(reasons, NUM_DROPPED)
    chosen = [i for i in chosen if i in every] or _shuffled(list(every))[:NUM_PAIRS]
    wanted = set(chosen)
    responses: dict[str, list[Candidate]] = {i: [] for i in chosen}
    for candidate in read_records(candidates, Candidate):
        if candidate.prompt_id in wanted:
            responses[candidate.prompt_id].append(candidate)
    judged = {j.id: j for j in read_records(judge, Judgement) if j.prompt_id in wanted} if judge else {}
    items = [_item(every[i], responses[i], judged, pairs.get(i), reasons.get(i), files.min_valid) for i in chosen]
    return {"iteration": t, "policy": model_name(t - 1), "items": items}


def _item(
    prompt: Prompt,
    candidates: list[Candidate],
    judged: dict[str, Judgement],
    pair: PreferencePair | None,
    reason: str | None,
    min_valid: int,
) -> Data:
    rows: list[dict[str, Any]] = []
    roles = {pair.chosen: "chosen", pair.rejected: "rejected"} if pair else {}
    for candidate in sorted(candidates, key=lambda c: c.index):
        judgement = judged.get(candidate.id)
        rows.append(
            {
                "index": candidate.index,
                "text": clip(candidate.text),
                "tokens": candidate.num_tokens,
                "finish": candidate.finish_reason,
                "error": candidate.error or (judgement.error if judgement else ""),
                "score": aggregate(judgement.scores, min_valid) if judgement else None,
                "draws": [
                    {"score": s, "text": clip(text)} for s, text in zip(judgement.scores, judgement.texts, strict=True)
                ]
                if judgement
                else [],
                # two candidates may have the same text: the role belongs to the first of them
                "role": "" if candidate.error else roles.pop(candidate.text, ""),
            }
        )
    rows.sort(key=lambda r: (-(r["score"] if r["score"] is not None else -1.0), r["index"]))
    return {"id": prompt.id, "prompt": clip(prompt.text), "reason": reason, "candidates": rows}


def same_prompt(files: RunFiles) -> list[Data]:
    """Held-out prompts with the response of every model: [{"prompt", "responses": [{"model", "text", "error", "score"}]}]."""
    first: dict[str, dict[str, Candidate]] = {}  # model -> prompt id -> its first sample
    scores: dict[str, dict[str, float]] = {}
    for name, t, suffix in evaluated_models(files.cfg, files.cfg.iterations):
        path = files.path(t, f"eval_responses{suffix}", "responses.jsonl")
        if path is None:
            continue
        first[name] = {c.prompt_id: c for c in read_records(path, Candidate) if c.index == 0}
        scores[name] = _oracle_levels(files, t, suffix)
    texts = _eval_prompts(files)
    common = [i for i in texts if first and all(i in found for found in first.values())]
    return [
        {
            "prompt": clip(texts[i]),
            "responses": [
                {
                    "model": name,
                    "text": clip(found[i].text),
                    "error": found[i].error,
                    "score": scores[name].get(found[i].id),
                }
                for name, found in first.items()
            ],
        }
        for i in _shuffled(common)[:NUM_SAME_PROMPT]
    ]


def _eval_prompts(files: RunFiles) -> dict[str, str]:
    path = files.path(0, "held_out", "eval_prompts.jsonl")
    return {p.id: p.text for p in read_records(path, Prompt)} if path else {}


def _oracle_levels(files: RunFiles, t: int, suffix: str) -> dict[str, float]:
    """Response id -> the oracle's level; {} without the tiny world."""
    path = files.path(t, f"eval_oracle{suffix}", "scores.jsonl")
    if path is None:
        return {}
    return {row.id: row.level for row in oracle_levels(path)}
