"""MT-Bench: two-turn answers in FastChat's files, and the reading of its single-answer grades.

Files as lm-sys/FastChat's llm_judge has them, so that its own tools read ours and ours read theirs: question.jsonl,
judge_prompts.jsonl (both come from the user), model_answer/<model>.jsonl, model_judgment/<judge>_single.jsonl.
A grade is 1..10 in double brackets; one that does not parse is None here and -1 in the file, and counts in no mean.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_srlm.engine import Engine, Failure, Outcome, Request, generate
from nemo_srlm.errors import DataError
from nemo_srlm.records import content_id, item_seed
from nemo_srlm.store import read_json_lines
from nemo_srlm.tokens import Chat

TEMPERATURE = {  # of the answers, as FastChat samples them
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1,
    "humanities": 0.1,
}  # fmt: skip
WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})  # judged against a reference answer
_RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
PROMPTS = {  # (second turn?, with a reference?) -> name in judge_prompts.jsonl
    (False, False): "single-v1", (False, True): "single-math-v1",
    (True, False): "single-v1-multi-turn", (True, True): "single-math-v1-multi-turn",
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    id: int
    category: str
    turns: tuple[str, str]
    reference: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grade:
    question_id: int
    turn: int  # 1 or 2
    model: str
    score: float | None


def read_questions(path: Path) -> list[Question]:
    """question.jsonl. Raises DataError for a question without two turns, and for an unknown category."""
    found = []
    for number, row in read_json_lines(path):
        where = f"{path}:{number}"
        if not isinstance(row, dict) or not {"question_id", "category", "turns"} <= set(row):
            raise DataError(where, "no MT-Bench question", "question_id, category and turns")
        if len(row["turns"]) != 2:
            raise DataError(where, f"{len(row['turns'])} turns", "two")
        if row["category"] not in TEMPERATURE:
            raise DataError(where, f"category {row['category']!r}", f"one of {', '.join(TEMPERATURE)}")
        reference = tuple(row["reference"]) if row.get("reference") else ()
        found.append(Question(int(row["question_id"]), row["category"], tuple(row["turns"]), reference))
    if not found:
        raise DataError(path, "no question", "MT-Bench's question.jsonl")
    return found


def answer(
    engine: Engine, chat: Chat, questions: Sequence[Question], max_tokens: int, seed: int
) -> dict[int, tuple[str, str]]:
    """question id -> both answers: all first turns at once, then all second turns after their first answers.

    A failed turn (too long, ...) answers "$ERROR$", as FastChat writes it; the second turn of it is not asked.
    """
    first = _turn(engine, questions, lambda q: chat.prompt_ids(q.turns[0]), 1, max_tokens, seed)
    going_on = [q for q in questions if first[q.id] != ERROR]

    def both(q: Question) -> list[int]:
        # Llama 2's way: every turn of its own, each with its begin and end
        return [*chat.prompt_ids(q.turns[0]), *chat.response_ids(first[q.id]), *chat.prompt_ids(q.turns[1])]

    second = _turn(engine, going_on, both, 2, max_tokens, seed)
    return {q.id: (first[q.id], second.get(q.id, ERROR)) for q in questions}


ERROR = "$ERROR$"


def _turn(
    engine: Engine,
    questions: Sequence[Question],
    ids: Callable[[Question], list[int]],
    turn: int,
    max_tokens: int,
    seed: int,
) -> dict[int, str]:
    requests = [
        Request(
            str(q.id), tuple(ids(q)), 1, item_seed(seed, "mt_bench", q.id, turn), TEMPERATURE[q.category], 1.0, max_tokens,
            text=q.turns[turn - 1],
        )
        for q in questions
    ]  # fmt: skip
    outcomes: list[Outcome] = generate(engine, requests)
    return {
        q.id: ERROR if isinstance(outcome, Failure) else outcome[0].text.strip()
        for q, outcome in zip(questions, outcomes, strict=True)
    }


def answer_row(question: Question, model: str, turns: tuple[str, str], stamp: float) -> dict[str, Any]:
    """A line of model_answer/<model>.jsonl."""
    return {
        "question_id": question.id,
        "answer_id": content_id("mt_bench", model, question.id, *turns),
        "model_id": model,
        "choices": [{"index": 0, "turns": list(turns)}],
        "tstamp": stamp,
    }


def read_judge_prompts(path: Path) -> dict[str, dict[str, str]]:
    """judge_prompts.jsonl by name. Raises DataError when one of the four for single answers is missing."""
    found = {row["name"]: row for _, row in read_json_lines(path)}
    if missing := sorted(set(PROMPTS.values()) - set(found)):
        raise DataError(path, f"prompts missing: {missing}", "FastChat's judge_prompts.jsonl")
    return found


def judge_messages(
    question: Question, turns: tuple[str, str], turn: int, prompts: Mapping[str, Mapping[str, str]]
) -> list[dict[str, str]]:
    """System and user message that ask for the grade of one turn. Raises DataError without a needed reference."""
    with_reference = question.category in WITH_REFERENCE
    if with_reference and len(question.reference) < turn:
        raise DataError(f"question {question.id}", "no reference answer", "one for math, reasoning and coding")
    prompt = prompts[PROMPTS[turn == 2, with_reference]]
    values = {"question": question.turns[0], "answer": turns[0]}
    for k in (1, 2):
        values |= {f"question_{k}": question.turns[k - 1], f"answer_{k}": turns[k - 1]}
        if len(question.reference) >= k:
            values[f"ref_answer_{k}"] = question.reference[k - 1]
    user = prompt["prompt_template"].format_map(values)
    return [{"role": "system", "content": prompt["system_prompt"]}, {"role": "user", "content": user}]


def parse_rating(text: str) -> float | None:
    """The first [[rating]] (or, without one, [rating]) in 1..10; None otherwise."""
    for pattern in _RATINGS:
        if match := pattern.search(text):
            score = float(match[1])
            return score if 1 <= score <= 10 else None
    return None


def judgment_row(
    grade: Grade, judge: str, prompt: str, messages: Sequence[Mapping[str, str]], text: str, stamp: float
) -> dict[str, Any]:
    """A line of model_judgment/<judge>_single.jsonl."""
    return {
        "question_id": grade.question_id, "model": grade.model, "judge": [judge, prompt],
        "user_prompt": messages[-1]["content"], "judgment": text, "score": -1 if grade.score is None else grade.score,
        "turn": grade.turn, "tstamp": stamp,
    }  # fmt: skip


def read_grades(path: Path) -> list[Grade]:
    """model_judgment/<judge>_single.jsonl, ours or FastChat's."""
    return [
        Grade(
            int(row["question_id"]), int(row["turn"]), row["model"], None if row["score"] == -1 else float(row["score"])
        )
        for _, row in read_json_lines(path)
    ]


def summary(grades: Iterable[Grade], questions: Sequence[Question]) -> dict[str, Any]:
    """{"overall", "turn_1", "turn_2", "categories": {name: mean}, "graded", "failed"}: means out of 10, None without any.

    Overall is the mean over all graded turns, as FastChat shows it.
    """
    category = {q.id: q.category for q in questions}
    every = list(grades)
    good = [(g, g.score) for g in every if g.score is not None]

    def mean(scores: list[float]) -> float | None:
        return sum(scores) / len(scores) if scores else None

    names = sorted({category[g.question_id] for g, _ in good})
    return {
        "overall": mean([s for _, s in good]),
        "turn_1": mean([s for g, s in good if g.turn == 1]),
        "turn_2": mean([s for g, s in good if g.turn == 2]),
        "categories": {name: mean([s for g, s in good if category[g.question_id] == name]) for name in names},
        "graded": len(good),
        "failed": len(every) - len(good),
    }
