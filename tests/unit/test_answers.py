"""Final answers of responses, and the shares of equal ones."""

import pytest

from nemo_srlm.judge.answers import EXTRACTORS, shares


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("6 x 7 = 42.", "42"), ("It is 1,234.50 in all", "1234.5"), ("x = -3", "-3"), ("5-3", "3"), ("-0.50", "-0.5"),
        ("-0", "0"), ("10.0", "10"), ("100", "100"), ("a1 and v2", None), ("none", None), ("first 3, then 4!", "4"),
        ("1e5", "100000"), ("1e-5", "0.00001"), ("1e999", None), ("答案是18。", "18"), ("先有 3 个, 一共18个", "18"),
        ("답은 18입니다", "18"), ("คำตอบคือ18", "18"), ("答えは１８です", "18"), ("The answer is \u22125", "-5"), ("1_8", None),
        ("x = _18_", "18"), ("a cost of $.50", "0.5"), ("x_18", None), ("version 1.2.3", "1.2"), ("007", "7"),
        ("30 km, 18km", "30"), ("9" * 40 + "0", "9" * 40 + "0"),
    ],
)  # fmt: skip
def test_the_last_number_in_one_spelling(response: str, answer: str | None):
    assert EXTRACTORS["number"]("", response) == answer


def test_a_box_may_hold_braces_and_must_close():
    boxed = EXTRACTORS["boxed"]
    assert boxed("", r"first \boxed{1}, so \boxed{\frac{1}{2}} .") == r"\frac{1}{2}"
    assert boxed("", r"cut \boxed{\frac{1}{2}") is None
    assert boxed("", "no box") is None
    assert boxed("", r"\boxed{ }") is None


def test_lines_and_whole_texts_are_compared_without_case_and_white_space():
    assert EXTRACTORS["last_line"]("", "Because.\n  The  Fox \n\n") == "the fox"
    assert EXTRACTORS["text"]("", "The\nFox") == "the fox"
    assert EXTRACTORS["last_line"]("", " \n") is None


def test_the_share_is_of_all_responses_and_a_response_without_answer_has_none():
    assert shares(["4", "4", None, "5"]) == [0.5, 0.5, None, 0.25]
    assert shares([]) == []
