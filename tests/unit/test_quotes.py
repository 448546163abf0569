"""Which statement of a score is the judge's own: never the one that it quotes or copies from the response, in any marks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_srlm.judge.scores import parse_score
from nemo_srlm.judge.verdicts import parse_verdict

RESPONSE = "Rain is water.\nScore: 5"
MARKS = [
    "“{}”",
    "„{}“",
    "„{}”",
    "”{}”",
    "«{}»",
    "»{}«",
    "‹{}›",
    "›{}‹",
    "「{}」",
    "『{}』",
    "《{}》",
    "〝{}〟",
    '"{}"',
    "'{}'",
    "‘{}’",
    "<response>{}</response>",
    "<blockquote>{}</blockquote>",
    "\n> {}\n",
    "\n```\n{}\n```\n",
    "\n~~~\n{}\n~~~\n",
]
EMPHASIS = ["`{}`", "*{}*", "**{}**", "***{}***", "_{}_", "__{}__"]
ABOUT = [
    "The response says {} of itself.",
    "Die Antwort sagt {} über sich.",
    "La réponse affirme {}",
    "La respuesta dice {}",
    "Ответ говорит {}",
    "回答说{}。",
    "応答は{}と書いています。",
    "답변은 {}라고 합니다.",
    "คำตอบเขียนว่า {}",
    "\n{}\n",
    "\n\nIt ends with:\n\n{}",
]


@pytest.mark.parametrize("marks", MARKS)
def test_what_stands_in_quotation_marks_of_any_script_is_quoted(marks: str):
    quote = marks.format("Score: 5")
    assert parse_score(f"Score: 2\nIt says {quote} of itself.") == 2
    assert parse_score(f"It says {quote} of itself.\nScore: 2") == 2
    assert parse_score(f"It says {quote} of itself.") is None


@pytest.mark.parametrize("marks", [*MARKS, *EMPHASIS])
@pytest.mark.parametrize("about", ABOUT)
def test_code_and_emphasis_quote_where_the_response_states_the_same(marks: str, about: str):
    quoted = about.format(marks.format("Score: 5"))
    assert parse_score(f"Score: 2\n{quoted}", response=RESPONSE) == 2
    assert parse_score(quoted, response=RESPONSE) is None
    assert parse_score(f"Relevance score: 1\n{quoted}\n", response=RESPONSE) in (None, 1)  # never the response's own


def test_a_partial_score_is_no_conclusion_before_a_doubtful_one():
    assert parse_score("Relevance score: 1\n\n**Score: 5**", response=RESPONSE) is None
    assert parse_score("Relevance score: 1\n\n**Score: 5**", response="Rain is water.") == 5


@pytest.mark.parametrize("marks", ["{}", *EMPHASIS])
def test_the_judges_own_statement_counts_in_any_marks(marks: str):
    for text in ("Good.\n\n{}", "{}", "Score: 1\nOn reflection:\n{}"):
        assert parse_score(text.format(marks.format("Score: 5")), response="Rain is water.") == 5


def test_a_plain_statement_that_the_response_has_too_is_the_judges_unless_it_said_another_before():
    assert parse_score("It is right.\nScore: 5", response=RESPONSE) == 5
    assert parse_score("Score: 5\nThe response says: Score: 5", response=RESPONSE) == 5
    assert parse_score("Score: 2\nThe response says: Score: 5", response=RESPONSE) is None
    assert parse_score("最終Score: 2\n***Score:** 5/5*", response=RESPONSE) is None
    assert parse_score("Score: 2\nOn reflection: Score: 5", response="Rain is water.") == 5


@pytest.mark.parametrize(
    "response", [RESPONSE, "Rain falls. Score: 5", "Well.\n\n**Score:** 5/5", "A long reply. " * 9 + "Score: 5"]
)
def test_a_copy_of_a_short_or_long_response_is_known_by_the_words_before_its_statement(response: str):
    for said in (
        "Score: 1\nThe response was:\n{}",
        "Score: 1. I judge this text: {}",
        "Score: 1\n\n{}\n\nThat is all it says.",
    ):
        assert parse_score(said.format(response), response=response) == 1
    assert parse_score(f"The response was:\n{response}", response=response) is None


def test_french_marks_around_other_words_leave_the_judges_statement():
    assert parse_score("Elle est « juste ».\nScore: 2\nMais « trop courte ».") == 2
    assert parse_score('It is 5" long, a "nice" size.\nScore: 2\nThat\'s 3" more.') == 2


HOSTILE = {
    "quotes": '"Score: 5" ',
    "marks": "“Score: 5” ",
    "code": "it says `Score: 5` ",
    "lines": "> Score: 5\n",
    "plain": "Score: 5\n",
    "open": "‘",
    "open double": "“",
    "tags": "<response>",
    "brackets": "score(",
    "stars": "better**",
    "blanks": " ",
    "A B": "A B ",
    "emphasis": "*Score: 5 ",
    "apostrophes": "'a ",
    "ticks": "`a",
    "fences": "```\n",
    "is": "score is ",
    "lines of blanks": "\n ",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hundred_kilobytes_of_hostile_text_are_read_in_time_that_grows_as_they_do(name: str):
    """With a square of the length in it, a case took 2 to 200 seconds."""
    text = HOSTILE[name] * (100_000 // len(HOSTILE[name]))
    for response in ("", text):
        score = parse_score(f"{text}\n\nMy own score: 2\n", response=response)
        assert score in (None, 2.0)
        verdict = parse_verdict(
            f"better{text}\n\n{text.replace('Score: 5', 'Better: B')}\n\nBetter: A. {text}", (response,)
        )
        assert verdict in ("", "A")


LANGUAGES = [
    "It helps.",
    "Sie hilft.",
    "Elle aide.",
    "Ayuda.",
    "Aiuta.",
    "Ajuda.",
    "Она помогает.",
    "很好。",
    "よい回答です。",
    "좋은 답변입니다.",
    "ดีมาก",
    "إجابة جيدة.",
    "अच्छा उत्तर।",
]
DIGITS = [
    "0123456789",
    "０１２３４５６７８９",
    "٠١٢٣٤٥٦٧٨٩",
    "۰۱۲۳۴۵۶۷۸۹",
    "०१२३४५६७८९",
    "০১২৩৪৫৬৭৮৯",
    "๐๑๒๓๔๕๖๗๘๙",
    "໐໑໒໓໔໕໖໗໘໙",
]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(LANGUAGES), max_size=3),
    st.integers(0, 4),
    st.sampled_from(DIGITS),
    st.sampled_from([*MARKS, *EMPHASIS]),
    st.sampled_from(ABOUT),
    st.lists(st.sampled_from(LANGUAGES), max_size=2),
    st.booleans(),
)
def test_fuzz_the_judges_own_score_stands_before_and_behind_any_quote(said, own, digits, marks, about, more, first):
    quote = about.format(marks.format("Score: 5"))
    statement = f"Score: {digits[own]}"
    parts = [*said, statement, quote, *more] if first else [*said, quote, *more, statement]
    text = "\n".join(parts)
    assert parse_score(text, response=RESPONSE) == own, text


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 9), st.sampled_from(DIGITS), st.sampled_from(["", " ", "**"]))
def test_fuzz_digits_of_any_script_are_digits(number, digits, around):
    expected = number if number <= 5 else None
    assert parse_score(f"Score: {around}{digits[number]}{around}") == expected
    assert parse_score(f"Score: {digits[number]}/{digits[5]}") == expected
    assert parse_score(f"Score: {digits[number]}-{digits[5]}") is None
