"""MT-Bench (Zheng et al., arXiv 2306.05685), single-answer grading: requests, grades, means, in FastChat's file formats.

The files are those of lm-sys/FastChat's llm_judge, so that its tools can read them: question.jsonl and judge_prompts.jsonl
(from the user), model_answer/<model>.jsonl, model_judgment/<judge>_single.jsonl. A grade is the number in double brackets, kept
whatever it is ([[0]], [[11]]), as FastChat keeps it; one that does not parse is None here and -1 in the file, and is left out
of the means. A response or a judgment that failed is the text $ERROR$ there; a failed response is judged as that text.
"""

import ast
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_srlm.core.files import decoded, read_json_lines
from nemo_srlm.core.records import Record, content_id, item_seed
from nemo_srlm.data.chat import Chat, assistant, user
from nemo_srlm.errors import DataError
from nemo_srlm.generate.requests import Request

TEMPERATURE = {  # of the responses, by category, as in FastChat
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1,
    "humanities": 0.1,
}  # fmt: skip
WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})  # judged against a reference answer
_RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
PROMPTS = {  # (second turn?, with a reference?) -> name in judge_prompts.jsonl
    (False, False): "single-v1", (False, True): "single-math-v1",
    (True, False): "single-v1-multi-turn", (True, True): "single-math-v1-multi-turn",
}  # fmt: skip
LAST_ID = 10**9
_MARK = "\0"  # in the place of a field
_FIELDS = (
    "question",
    "answer",
    "question_1",
    "question_2",
    "answer_1",
    "answer_2",
    "ref_answer_1",
    "ref_answer_2",
)  # of a prompt_template
ERROR = "$ERROR$"  # FastChat's text of a response or a judgment that failed


@dataclass(frozen=True)
class Question:
    id: int
    category: str
    turns: tuple[str, str]
    reference: tuple[str, ...] = ()


@dataclass(frozen=True)
class _QuestionRow:
    """A line of question.jsonl; further fields are not read."""

    question_id: int
    category: str
    turns: tuple[str, str]
    reference: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Choice:
    turns: tuple[str, ...]


@dataclass(frozen=True)
class _AnswerRow:
    """A line of reference_answer/<model>.jsonl."""

    question_id: int
    choices: tuple[_Choice, ...]


@dataclass(frozen=True)
class _PromptRow:
    """A line of judge_prompts.jsonl."""

    name: str
    prompt_template: str
    system_prompt: str


@dataclass(frozen=True)
class Turn(Record):
    """One response. `error`: why there is none; then the text is empty."""

    question_id: int
    turn: int  # 1 or 2
    text: str
    num_tokens: int
    error: str = ""


@dataclass(frozen=True)
class Graded(Record):
    """The judge's response to one turn. `score`: asked for as 1..10; None where it did not parse."""

    question_id: int
    turn: int
    score: float | None
    text: str
    error: str = ""


@dataclass(frozen=True)
class Grade:
    question_id: int
    turn: int  # 1 or 2
    model: str
    score: float | None


def read_questions(path: Path) -> list[Question]:
    """question.jsonl. Raises DataError for a question without two turns, and for an unknown category."""
    found: dict[int, Question] = {}
    for number, data in read_json_lines(path, finite=True):
        where = f"{path}:{number}"
        row = decoded(data, _QuestionRow, where, "an MT-Bench question: question_id, category and two turns")
        _check_id(row.question_id, where)
        if row.category not in TEMPERATURE:
            raise DataError(where, f"category {row.category!r}", f"one of {', '.join(TEMPERATURE)}")
        if row.question_id in found:
            raise DataError(where, f"question {row.question_id} twice", "every question_id once")
        if not all(turn.strip() for turn in row.turns):
            raise DataError(where, "an empty turn", "two texts")
        found[row.question_id] = Question(row.question_id, row.category, row.turns, row.reference or ())
    if not found:
        raise DataError(path, "no question", "MT-Bench's question.jsonl")
    return list(found.values())


def with_references(questions: Sequence[Question], path: Path) -> list[Question]:
    """The questions with the reference answers of FastChat's reference_answer/<model>.jsonl in place of their own."""
    found = {}
    for number, data in read_json_lines(path, finite=True):
        row = decoded(data, _AnswerRow, f"{path}:{number}", "an answer of FastChat's reference_answer file")
        _check_id(row.question_id, f"{path}:{number}")
        turns = row.choices[0].turns if row.choices else ()
        if len(turns) != 2 or not all(turn.strip() for turn in turns):
            raise DataError(
                f"{path}:{number}", f"{len(turns)} turns, or empty ones", "an answer to each of the two turns"
            )
        found[row.question_id] = row.choices[0].turns
    if not found:
        raise DataError(path, "no answer", "FastChat's reference_answer file")
    return [replace(q, reference=found.get(q.id, q.reference)) for q in questions]


def _check_id(question_id: int, where: str) -> None:
    if not 0 <= question_id <= LAST_ID:
        raise DataError(where, f"question_id {str(question_id)[:20]}", f"a whole number from 0 to {LAST_ID}")


def turn_id(question_id: int, turn: int) -> str:
    return content_id("mt_bench", question_id, turn)


def turn_request(chat: Chat, question: Question, before: Sequence[str], max_tokens: int, seed: int) -> Request:
    """The request for the turn that follows the responses `before` (none: the first turn)."""
    turn, messages = len(before) + 1, []
    for asked, answered in zip(question.turns, before, strict=False):
        messages += [user(asked), assistant(answered)]
    ids = chat.next_turn_ids([*messages, user(question.turns[turn - 1])])
    draw = item_seed(seed, "mt_bench", question.id, turn)
    return Request(
        turn_id(question.id, turn), tuple(ids), 1, draw, TEMPERATURE[question.category], 1.0, max_tokens,
        text=question.turns[turn - 1],
    )  # fmt: skip


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
    found = {}
    for number, data in read_json_lines(path, finite=True):
        row = decoded(data, _PromptRow, f"{path}:{number}", "a prompt of FastChat's judge_prompts.jsonl")
        if not row.name.strip():
            raise DataError(f"{path}:{number}", "an empty name", "the name of a prompt")
        if row.name in PROMPTS.values():
            try:
                filled = row.prompt_template.format_map(dict.fromkeys(_FIELDS, _MARK))
            except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
                raise DataError(
                    f"{path}:{number}",
                    f"a prompt_template that cannot be filled ({error!r})",
                    f"fields of {', '.join(_FIELDS)}",
                ) from error
            if _MARK not in filled:
                raise DataError(
                    f"{path}:{number}",
                    "a prompt_template that shows the judge nothing",
                    f"fields of {', '.join(_FIELDS)}",
                )
        found[row.name] = {"prompt_template": row.prompt_template, "system_prompt": row.system_prompt}
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
    """The first [[rating]] (or, without one, [rating]), of any size; None otherwise, and where FastChat ends with an error
    (a number that is no literal of Python's: [[07]])."""
    match = next((found for pattern in _RATINGS if (found := pattern.search(text))), None)
    try:
        return None if match is None else float(ast.literal_eval(match[1]))
    except (SyntaxError, ValueError):
        return None


def judgment_row(
    grade: Grade, judge: str, prompt: str, messages: Sequence[Mapping[str, str]], text: str, stamp: float
) -> dict[str, Any]:
    """A line of model_judgment/<judge>_single.jsonl."""
    return {
        "question_id": grade.question_id, "model": grade.model, "judge": [judge, prompt],
        "user_prompt": messages[-1]["content"], "judgment": text or ERROR, "score": _written(grade.score),
        "turn": grade.turn, "tstamp": stamp,
    }  # fmt: skip


def _written(score: float | None) -> float:
    """A grade as FastChat writes it: whole ones without a point."""
    return -1 if score is None else int(score) if score.is_integer() else score


def summary(grades: Iterable[Grade], questions: Sequence[Question]) -> dict[str, Any]:
    """{"overall", "turn_1", "turn_2", "categories": {name: mean}, "graded", "failed", "outside"}: means out of 10, None without
    any.

    Overall is the mean over all graded turns, as FastChat shows it; `se_overall` its standard error, clustered by
    question (two turns of one conversation are not independent), None with fewer than two questions.
    """
    category = {q.id: q.category for q in questions}
    every = list(grades)
    good = [(g, g.score) for g in every if g.score is not None]

    def mean(scores: list[float]) -> float | None:
        return sum(scores) / len(scores) if scores else None

    names = sorted({category[g.question_id] for g, _ in good})
    return {
        "overall": mean([s for _, s in good]),
        "se_overall": _clustered([(g.question_id, s) for g, s in good]),
        "turn_1": mean([s for g, s in good if g.turn == 1]),
        "turn_2": mean([s for g, s in good if g.turn == 2]),
        "categories": {name: mean([s for g, s in good if category[g.question_id] == name]) for name in names},
        "graded": len(good),
        "failed": len(every) - len(good),
        "outside": sum(
            not 1 <= s <= 10 for _, s in good
        ),  # the judge was asked for 1 to 10; they count, as in FastChat
    }


def _clustered(scores: Sequence[tuple[int, float]]) -> float | None:
    """Standard error of the mean of scores that come in groups: residuals are added up within a group first."""
    groups = {g for g, _ in scores}
    if len(groups) < 2:
        return None
    mean = sum(s for _, s in scores) / len(scores)
    sums = [sum(s - mean for h, s in scores if h == g) for g in groups]
    return math.sqrt(sum(x * x for x in sums) * len(groups) / (len(groups) - 1)) / len(scores)
