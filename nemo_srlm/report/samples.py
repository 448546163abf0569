"""What a reader should see with their own eyes: prompts with candidates and judgements, and every model's answers.

The choice is by a hash of the id, so it is arbitrary but the same in every report of the run.
"""

from typing import TYPE_CHECKING, Any

from nemo_srlm.core.files import read_json_lines, read_records
from nemo_srlm.core.records import Candidate, Judgement, PreferencePair, Prompt, content_id
from nemo_srlm.judge.scores import aggregate, required_valid

if TYPE_CHECKING:
    from nemo_srlm.report.run_files import RunFiles

NUM_PAIRS = 16  # prompts of a round that gave a pair
NUM_DROPPED = 8  # prompts of a round that gave none, spread over the reasons
NUM_ANSWERS = 12  # held-out prompts that every model answers
MAX_CHARS = 4000  # of one text in the report; the files hold the whole


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


def of_round(files: "RunFiles", t: int) -> dict[str, Any] | None:
    """{"iteration", "policy", "items": [...]} of round t; None until its candidates are finished."""
    prompts, candidates = files.path(t, "prompts", "prompts.jsonl"), files.path(t, "candidates", "candidates.jsonl")
    if prompts is None or candidates is None:
        return None
    judge = files.judgements(t)
    kept, dropped = (files.path(t, *name) for name in (("pairs", "pairs.jsonl"), ("pairs", "dropped.jsonl")))
    pairs = {p.prompt_id: p for p in read_records(kept, PreferencePair)} if kept else {}
    reasons = {str(d["prompt_id"]): str(d["reason"]) for _, d in read_json_lines(dropped)} if dropped else {}
    every = {p.id: p for p in read_records(prompts, Prompt)}
    chosen = _shuffled(list(pairs))[:NUM_PAIRS] + _spread(reasons, NUM_DROPPED)
    chosen = [i for i in chosen if i in every] or _shuffled(list(every))[:NUM_PAIRS]
    wanted = set(chosen)
    replies: dict[str, list[Candidate]] = {i: [] for i in chosen}
    for candidate in read_records(candidates, Candidate):
        if candidate.prompt_id in wanted:
            replies[candidate.prompt_id].append(candidate)
    judged = {j.id: j for j in read_records(judge, Judgement) if j.prompt_id in wanted} if judge else {}
    needed = 1 if files.cfg.run.arm == "oracle" else required_valid(files.cfg.judge)
    items = [_item(every[i], replies[i], judged, pairs.get(i), reasons.get(i), needed) for i in chosen]
    return {"iteration": t, "policy": f"M{t}", "items": items}


def _item(
    prompt: Prompt,
    replies: list[Candidate],
    judged: dict[str, Judgement],
    pair: PreferencePair | None,
    reason: str | None,
    min_valid: int,
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    roles = {pair.chosen: "chosen", pair.rejected: "rejected"} if pair else {}
    for reply in sorted(replies, key=lambda c: c.index):
        judgement = judged.get(reply.id)
        rows.append(
            {
                "index": reply.index,
                "text": clip(reply.text),
                "tokens": reply.num_tokens,
                "finish": reply.finish_reason,
                "error": reply.error or (judgement.error if judgement else ""),
                "score": aggregate(judgement.scores, min_valid) if judgement else None,
                "draws": [
                    {"score": s, "text": clip(text)} for s, text in zip(judgement.scores, judgement.texts, strict=True)
                ]
                if judgement
                else [],
                # two candidates may have the same text: the role belongs to the first of them
                "role": "" if reply.error else roles.pop(reply.text, ""),
            }
        )
    rows.sort(key=lambda r: (-(r["score"] if r["score"] is not None else -1.0), r["index"]))
    return {"id": prompt.id, "prompt": clip(prompt.text), "reason": reason, "candidates": rows}


def answers(files: "RunFiles") -> list[dict[str, Any]]:
    """The same held-out prompts answered by every model: [{"prompt", "answers": [{"model", "text", "score"}]}]."""
    sources = [("baseline", 0, "_baseline"), *((f"M{t + 1}", t, "") for t in range(files.cfg.iterations + 1))]
    first_answers: dict[str, dict[str, Candidate]] = {}
    scores: dict[str, dict[str, float]] = {}
    for name, t, suffix in sources:
        path = files.path(t, f"eval_responses{suffix}", "responses.jsonl")
        if path is None:
            continue
        first_answers[name] = {c.prompt_id: c for c in read_records(path, Candidate) if c.index == 0}
        scores[name] = _oracle_levels(files, t, suffix)
    texts = _eval_prompts(files)
    common = [i for i in texts if first_answers and all(i in found for found in first_answers.values())]
    return [
        {
            "prompt": clip(texts[i]),
            "answers": [
                {
                    "model": name,
                    "text": clip(found[i].text),
                    "error": found[i].error,
                    "score": scores[name].get(found[i].id),
                }
                for name, found in first_answers.items()
            ],
        }
        for i in _shuffled(common)[:NUM_ANSWERS]
    ]


def _eval_prompts(files: "RunFiles") -> dict[str, str]:
    path = files.path(0, "held_out", "eval_prompts.jsonl")
    return {p.id: p.text for p in read_records(path, Prompt)} if path else {}


def _oracle_levels(files: "RunFiles", t: int, suffix: str) -> dict[str, float]:
    """The oracle's level of each response, where the evaluation wrote it down."""
    path = files.path(t, f"eval_oracle{suffix}", "scores.jsonl")
    if path is None:
        return {}
    return {str(data["id"]): float(data["level"]) for _, data in read_json_lines(path)}
