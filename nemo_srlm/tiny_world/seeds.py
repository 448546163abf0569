"""The seed data and the held-out sets, in the formats of a real run.

Seeds are Open Assistant message trees (.trees.jsonl.gz): trees with one ranked reply of good quality (IFT), and trees
with four ranked replies, each with a reviewer's judgement in the extra key "judgement" (EFT).
"""

import gzip
import json
import random
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from nemo_srlm.core.records import Prompt, RankedReply, content_id
from nemo_srlm.errors import UserError
from nemo_srlm.tiny_world import oracle
from nemo_srlm.tiny_world.questions import FAMILIES, Question, Split, draw, wording
from nemo_srlm.tiny_world.replies import WEB, Quality, respond, respond_at, review

REPLIES = 4  # ranked replies per instruction
_DATE = "2023-02-12T19:06:16.233571+00:00"


def _fresh(rng: random.Random, split: Split, seen: set[str], family: str | None = None) -> tuple[Question, str]:
    """A question and a wording that no earlier call with `seen` has returned."""
    for _ in range(10_000):
        question = draw(rng, split, family)
        text = wording(rng, question)
        if text not in seen:
            seen.add(text)
            return question, text
    settings = (
        "world.num_ift, world.num_eft" if split.name == "train" else "world.num_eval_prompts, world.num_eval_judge"
    )
    raise UserError(
        settings, f"{len(seen)} prompts of the {split.name} split are used, and no new one of {family or 'any family'} was found",
        "no more prompts than the tiny world has", f"lower one of {settings}",
    )  # fmt: skip


def ift_pairs(rng: random.Random, split: Split, count: int, seen: set[str], quality: Quality) -> list[tuple[str, str]]:
    """(prompt, reply) of that quality."""
    pairs = []
    for _ in range(count):
        question, text = _fresh(rng, split, seen)
        pairs.append((text, respond(rng, question, quality, split)))
    return pairs


def judged_replies(
    rng: random.Random, split: Split, count: int, seen: set[str], noise: float
) -> list[tuple[str, list[tuple[str, str]]]]:
    """(prompt, [(reply, judgement), ... best first]) with `count` replies in total, about equally many of each score.

    noise: the share of the judgements that are off by one.
    """
    made = []
    used: Counter[int] = Counter()  # by oracle level
    while used.total() < count:
        question, text = _fresh(rng, split, seen)
        replies = []
        # the levels that are rarest so far; a single item is never half right
        levels = [level for level in rng.sample(range(6), 6) if level != 2 or len(oracle.answer(question)) > 1]
        for true_level in sorted(levels, key=lambda level: used[level])[:REPLIES]:
            reply = respond_at(rng, question, true_level, split)
            if reply is None or used.total() == count:
                continue
            used[true_level] += 1
            comment, level = review(rng, question, reply, noise)
            replies.append((level, rng.random(), reply, f"{comment} Score: {level}"))
        replies.sort(reverse=True)
        made.append((text, [(reply, judgement) for _, _, reply, judgement in replies]))
    return made


def write_trees(path: Path, ift: list[tuple[str, str]], judged: list[tuple[str, list[tuple[str, str]]]]) -> int:
    """Writes both as one export, in random order. Returns the number of trees."""
    trees = [_tree(text, [(reply, "")]) for text, reply in ift] + [_tree(text, replies) for text, replies in judged]
    trees.sort(key=lambda tree: str(tree["message_tree_id"]))
    # mtime=0: the same world gives the same bytes
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as f:
        for tree in trees:
            f.write((json.dumps(tree, ensure_ascii=False) + "\n").encode())
    return len(trees)


def _tree(text: str, replies: list[tuple[str, str]]) -> dict[str, Any]:
    prompt = _message(text, None, "prompter", None)
    prompt["replies"] = []
    for rank, (reply, judgement) in enumerate(replies):
        message = _message(reply, prompt["message_id"], "assistant", rank)
        if judgement:
            message["judgement"] = judgement
        prompt["replies"].append(message)
    return {"message_tree_id": prompt["message_id"], "tree_state": "ready_for_export", "prompt": prompt}


def _message(text: str, parent: str | None, role: str, rank: int | None) -> dict[str, Any]:
    return {
        "message_id": str(uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([parent, rank, text]))),
        "parent_id": parent,
        "created_date": _DATE,
        "text": text,
        "role": role,
        "lang": "en",
        "review_count": 3,
        "review_result": True,
        "deleted": False,
        "rank": rank,
        "synthetic": False,  # true would be filtered out, as synthetic text is in the real exports
        "model_name": None,
        "emojis": {},
        "replies": [],
        "labels": {},
    }


def eval_prompts(rng: random.Random, split: Split, count: int) -> list[Prompt]:
    """Held-out prompts, the families in turn."""
    seen: set[str] = set()
    texts = [_fresh(rng, split, seen, FAMILIES[i % len(FAMILIES)])[1] for i in range(count)]
    return [Prompt(id=content_id("prompt", text), text=text, source="eval") for text in texts]


def judge_eval(rng: random.Random, split: Split, count: int) -> list[RankedReply]:
    """Held-out instructions with four web replies of at least three oracle levels. Equal levels share a rank."""
    seen: set[str] = set()
    replies: list[RankedReply] = []
    for i in range(count):
        question, text = _fresh(rng, split, seen, FAMILIES[i % len(FAMILIES)])
        while True:
            texts = list(dict.fromkeys(respond(rng, question, WEB, split) for _ in range(REPLIES)))
            levels = [found.level for reply in texts if (found := oracle.score(question, reply)) is not None]
            if len(texts) == REPLIES and len(set(levels)) >= 3:
                break
        ranks = {level: rank for rank, level in enumerate(sorted(set(levels), reverse=True))}
        instruction_id = content_id("prompt", text)
        replies += [
            RankedReply(content_id("reply", text, reply), instruction_id, text, reply, ranks[level])
            for reply, level in zip(texts, levels, strict=True)
        ]
    return replies
