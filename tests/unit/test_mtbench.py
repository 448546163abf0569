"""MT-Bench: two turns, FastChat's files, grades."""

import json
from pathlib import Path

import pytest

from nemo_srlm.data.chat_template import Messages
from nemo_srlm.errors import DataError
from nemo_srlm.evaluate import mtbench
from nemo_srlm.evaluate.mtbench import Grade, Question

QUESTIONS = Path(__file__).resolve().parents[3] / "shared" / "data" / "mt_bench_questions.jsonl"
Q = [Question(81, "writing", ("write", "again")), Question(101, "reasoning", ("think", "more"), ("r1", "r2"))]
PROMPTS = {
    name: {"name": name, "system_prompt": "judge", "prompt_template": template}
    for name, template in {
        "single-v1": "{question}|{answer}",
        "single-math-v1": "{question}|{ref_answer_1}|{answer}",
        "single-v1-multi-turn": "{question_1}|{answer_1}|{question_2}|{answer_2}",
        "single-math-v1-multi-turn": "{ref_answer_1}|{ref_answer_2}|{answer_1}|{answer_2}",
    }.items()
}


class WordChat:
    """A chat format whose tokens are characters, so that a test can read the model's input."""

    def next_turn_ids(self, messages: Messages) -> list[int]:
        turns = ((m["role"], [*map(ord, m["content"])]) for m in messages)
        return [i for role, text in turns for i in ([1, ord("<"), *text, ord(">")] if role == "user" else [*text, 2])]


def test_the_second_turn_sees_the_first_question_and_its_answer():
    first, second = (mtbench.turn_request(WordChat(), Q[0], before, 50, 0) for before in ((), ("hello",)))  # type: ignore[arg-type]
    shown = ["".join(chr(i) if i > 2 else "^$"[i - 1] for i in request.prompt_ids) for request in (first, second)]
    assert shown == ["^<write>", "^<write>hello$^<again>"]
    assert (first.temperature, second.temperature, first.max_tokens) == (0.7, 0.7, 50)
    assert first.seed != second.seed


def test_reference_answers_of_fastchats_file_replace_the_questions_own(tmp_path: Path):
    path = tmp_path / "gpt-4.jsonl"
    path.write_text('{"question_id": 101, "choices": [{"index": 0, "turns": ["x", "y"]}]}\n', encoding="utf-8")
    assert [q.reference for q in mtbench.with_references(Q, path)] == [(), ("x", "y")]
    path.write_text('{"question_id": 101, "choices": [{"index": 0, "turns": ["x"]}]}\n', encoding="utf-8")
    with pytest.raises(
        DataError, match=r"gpt-4\.jsonl:1: 1 turns, or empty ones; expected an answer to each of the two"
    ):
        mtbench.with_references(Q, path)
    path.write_text('{"question_id": 101}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"gpt-4\.jsonl:1: .*`choices`"):
        mtbench.with_references(Q, path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Rating: [[7]]", 7.0), ("[[6.5]] or so", 6.5), ("[8]", 8.0), ("[1] first, then [[3]]", 3.0), ("[[0]]", 0.0),
     ("[[11]]", 11.0), ("[[7.]]", 7.0), ("seven", None), ("[[ ]]", None), ("[[07]]", None), ("$ERROR$", None)],
)  # fmt: skip
def test_ratings_are_read_and_kept_as_fastchat_does(text: str, expected: float | None):
    assert mtbench.parse_rating(text) == expected


def test_judge_messages_use_the_prompt_for_the_turn_and_the_reference():
    shown = [mtbench.judge_messages(q, ("a1", "a2"), turn, PROMPTS)[1]["content"] for q in Q for turn in (1, 2)]
    assert shown == ["write|a1", "write|a1|again|a2", "think|r1|a1", "r1|r2|a1|a2"]
    with pytest.raises(DataError, match="no reference"):
        mtbench.judge_messages(Question(1, "math", ("a", "b")), ("x", "y"), 1, PROMPTS)


def test_rows_have_fastchats_fields():
    row = mtbench.answer_row(Q[0], "M2", ("a1", "a2"), 5.0)
    assert set(row) == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
    assert row["choices"] == [{"index": 0, "turns": ["a1", "a2"]}]
    messages = mtbench.judge_messages(Q[0], ("a1", "a2"), 1, PROMPTS)
    judged = mtbench.judgment_row(Grade(81, 1, "M2", None), "gpt-4", "single-v1", messages, "hm", 5.0)
    assert (judged["score"], judged["judge"], judged["turn"]) == (-1, ["gpt-4", "single-v1"], 1)
    scores = {}
    for text in ("", "[[0]]", "[[11]]", "[[6.5]]"):
        grade = Grade(81, 1, "M2", mtbench.parse_rating(text))
        row = mtbench.judgment_row(grade, "gpt-4", "single-v1", messages, text, 5.0)
        scores[row["judgment"]] = json.dumps(row["score"])
    assert scores == {"$ERROR$": "-1", "[[0]]": "0", "[[11]]": "11", "[[6.5]]": "6.5"}


def test_the_summary_leaves_failed_grades_out_and_counts_them():
    out = mtbench.summary(
        [Grade(81, 1, "m", 8), Grade(81, 2, "m", 6), Grade(101, 1, "m", 4), Grade(101, 2, "m", None)], Q
    )
    assert (out["overall"], out["turn_1"], out["turn_2"]) == (6.0, 6.0, 6.0)
    assert out["categories"] == {"reasoning": 4.0, "writing": 7.0}
    assert (out["graded"], out["failed"], out["outside"]) == (3, 1, 0)
    assert mtbench.summary([Grade(81, 1, "m", 0), Grade(81, 2, "m", 11)], Q) | {"se_overall": None} == {
        "overall": 5.5, "se_overall": None, "turn_1": 0, "turn_2": 11, "categories": {"writing": 5.5}, "graded": 2,
        "failed": 0, "outside": 2,
    }  # fmt: skip
    # residuals by question: 2 + 0 and -2; sqrt((4 + 4) * 2 / 1) / 3
    assert out["se_overall"] == pytest.approx(4 / 3)
    assert mtbench.summary([], Q)["overall"] is None


@pytest.mark.skipif(not QUESTIONS.exists(), reason="MT-Bench's questions (../shared/data) are not here")
def test_the_eighty_real_questions_are_read():
    found = mtbench.read_questions(QUESTIONS)
    assert (len(found), len({q.category for q in found})) == (80, 8)
    assert all(q.turns[0] and q.turns[1] for q in found)


def test_what_is_no_question_is_refused_with_its_line(tmp_path: Path):
    path = tmp_path / "question.jsonl"
    path.write_text('{"question_id": 1, "category": "writing", "turns": ["only one"]}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"question\.jsonl:1: .*length 2, got 1"):
        mtbench.read_questions(path)
    path.write_text('{"question_id": -1, "category": "writing", "turns": ["a", "b"]}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"question\.jsonl:1: question_id -1; expected a whole number from 0 to"):
        mtbench.read_questions(path)
    prompts = tmp_path / "judge_prompts.jsonl"
    prompts.write_text('{"name": "single-v1", "prompt_template": "Grade it.", "system_prompt": ""}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"judge_prompts\.jsonl:1: a prompt_template that shows the judge nothing"):
        mtbench.read_judge_prompts(prompts)
    prompts.write_text(
        '{"name": "single-v1", "prompt_template": "{answer[a]}", "system_prompt": ""}\n', encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"judge_prompts\.jsonl:1: a prompt_template that cannot be filled \(TypeError"):
        mtbench.read_judge_prompts(prompts)
    prompts.write_text('{"name": "single-v1", "prompt_template": "{answer}", "system_prompt": ""}\n', encoding="utf-8")
    with pytest.raises(DataError, match="prompts missing"):
        mtbench.read_judge_prompts(prompts)
