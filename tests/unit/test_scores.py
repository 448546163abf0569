"""The judge's input, the score parser (a table of cases and a fuzz test), the mean of draws."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_srlm.config.generation import JudgeSection
from nemo_srlm.core.records import Judgement
from nemo_srlm.data import templates
from nemo_srlm.generate import requests
from nemo_srlm.judge import scores as judge_scores
from nemo_srlm.judge.expected import expectation
from nemo_srlm.judge.scores import aggregate, parse_draws, parse_score

STATED = {  # judgement -> its score
    "Score: 4": 4,
    "Score:4": 4,
    "score : 4": 4,
    "SCORE: 4": 4,
    "Score： 4": 4,
    "Score:\n\n4": 4,
    "Score:\r\n4\r\n": 4,
    "Score: 0": 0,
    "Score: 5!": 5,
    "Score: 05": 5,
    "Score: 3.5": 3.5,
    "Score: 4.": 4,
    "Score: 4/5": 4,
    "Score: 4 / 5": 4,
    "Score: 4/5.": 4,
    "Score: 4.0/5": 4,
    "Score: 4 out of 5": 4,
    "Score: 4 (out of 5)": 4,
    "Score: 4 out of a possible 5 points": 4,
    "Score: 4 Out Of Five": 4,
    "Score: 4 of 5": 4,
    "Score: 4 points": 4,
    "Score: 1 point": 1,
    "Score: 4/5 points": 4,
    "Score: 4 points out of 5": 4,
    "Score: 4 von 5 Punkten": 4,
    "Score: 4 de 5 puntos": 4,
    "**Score:** 4": 4,
    "**Score: 4**": 4,
    "**Score**: 4/5": 4,
    "Score: **4**": 4,
    "*Score:* _4_": 4,
    "### Score: 3\n\nA good response.": 3,
    "Score: `4`": 4,
    "Score: [4]": 4,
    "[Score: 4]": 4,
    "Score: (4/5)": 4,
    "Score: <4>": 4,
    '"Score: 4"': 4,
    '{"score": 4}': 4,
    "| Score: | 4 |": 4,
    "Score: $4$": 4,
    "Score (0-5): 4": 4,
    "Score (out of 5): 2": 2,
    "Total score: 4/5": 4,
    "Score: 4 - it is good": 4,
    "Score: 4, because it is good": 4,
    "Score: 4 (3 for content, 1 for style)": 4,
    "Score: 4 = 1 + 1 + 1 + 1": 4,
    "Score: 3\n- 4 points would need more": 3,
    "Score: 4/5\n5 would be too much": 4,
    # mistakes of public replications: taking the first match, a partial score, the last statement
    "Relevance points: 1. Completeness: 1.\n\nScore: 4": 4,
    "I give 1 point for relevance and 2 points for the rest. Score: 3": 3,
    "Score: 1\nOn reflection: Score: 3": 3,
    "Relevance score: 1\nTotal score: 4": 4,
    'The format is "Score: <total points>".\nScore: 2': 2,
    "Score: 3 or 4\nScore: 4": 4,
}
UNPARSABLE = [
    "",
    "A good response.",
    "Score:",
    "Score: ",
    "Scor",
    "4",
    "4/5",
    "Score: 3-4",
    "Score: 3 - 4",
    "Score: 3–4",
    "Score: **3**-**4**",
    "Score: 3~4",
    "Score: 3 to 4",
    "Score: 3 bis 4",
    "Score: 3 through 4",
    "Score: between 3 and 4",
    "Score: 3 or 4",
    "Score: 3 (or 4)",
    "Score: 3, or 4",
    "Score: 3 or even 4",
    "Score: 3 oder 4",
    "Score: 3 or four",
    "Score: 3, 4",
    "Score: 3;4",
    "Score: [3, 4]",
    "Score: 3 & 4",
    "Score: 3 and 4",
    "Score: 3/5 or 4/5",
    "Score: 3/5-4/5",
    "Score: 3/4",
    "Score: 4 5",
    "Score: 6",
    "Score: 5.5",
    "Score: 10",
    "Score: 99999999999999999999999999",
    "Score: -1",
    "Score: −1",
    "Score: - 4",
    "Score: 8/10",
    "Score: 4/10",
    "Score: 4 / 50",
    "Score: 4 out of 10",
    "Score: 4 out of ten",
    "Score: 4/hundred",
    "Score (out of 10): 4",
    "Score: 4%",
    "Score: 80%",
    "Score: four",
    "Score: N/A",
    "Score: none",
    "Score: <total points>",
    "Score: about 4",
    "Score: 4+",
    "Score: 1+1+1",
    "Score: 3-ish",
    "Score: 4th",
    "Score: 4½",
    "Score: 4 1/2",
    "Score: 4 and a half",
    "Score: 4,5",
    "Score: 4.5.1",
    "Score: 1e1",
    "Score:\n1. The response is relevant.",
    "Score:\n3 of the criteria are met",
    "underscore: 4",
    "Scores: 4",
    "Score: 4\nScore: unclear",  # the last statement counts, and it has no score
    "Score: 4\nScore: 3-4",
    "Score: 4\nScore:",
]


@pytest.mark.parametrize(("text", "score"), STATED.items())
def test_a_stated_score_is_read(text: str, score: float):
    assert parse_score(text) == score


@pytest.mark.parametrize("text", UNPARSABLE)
def test_what_is_not_one_number_on_our_scale_is_none(text: str):
    assert parse_score(text) is None


def test_the_scale_is_a_setting():
    assert parse_score("Score: 8/10", max_score=10) == 8
    assert parse_score("Score: 8", max_score=10) == 8
    assert parse_score("Score: 4/5", max_score=10) is None
    assert parse_score("Score (1-10): 7", max_score=10) == 7


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("The response is good. Score: 4", None),  # truncated: may have become "4 or 5" or "4.5"
        ("The response is good. Score: 4.", None),
        ("The response is good", None),
        ("Relevance score: 1\nThe respon", None),  # the final score is missing; a partial score does not count
        ("It is good.\n\nScore: 4\n\nI could add that", 4),
        ("It is good.\n**Score: 4**\nI could", 4),
        ("Total score: 4\nI could", 4),
        ("Gesamt-Score: 4\nIch könnte", 4),
        ("最終Score: 4\nまた", 4),
        ("関連性のScore: 1\n次に", None),
        ("It is good. Score: 4\nI could", 4),
    ],
)
def test_a_judgement_that_was_cut_counts_only_with_a_finished_conclusion(text: str, score: float | None):
    assert parse_score(text, truncated=True) == score


def test_a_draw_is_cut_when_it_ended_by_its_length():
    assert parse_draws(["Score: 4", "Score: 4", "x"], ["stop", "length", "stop"]) == (4, None, None)
    with pytest.raises(ValueError):
        parse_draws(["Score: 4"], [])


# --- fuzz test: statements built from the words of the rule ----------------------------------------------------------

_CLOSES = re.compile("[\"'`~”“’»«›‹」』》〞〟]|</")  # with an opening mark before the statement, it would be quoted
no_statement = st.text(max_size=60).filter(lambda t: "score" not in t.casefold() and "ſ" not in t)
wrap = st.sampled_from(
    [("", ""), ("**", "**"), ("*", "*"), ("_", "_"), ("`", "`"), ("[", "]"), ("(", ")"), ("<", ">"), ('"', '"')]
)
head = st.tuples(st.sampled_from(["Score", "score", "SCORE", "sCoRe"]), wrap, st.sampled_from([":", " :", "： "])).map(
    lambda parts: f"{parts[1][0]}{parts[0]}{parts[1][1]}{parts[2]}"
)
gap = st.sampled_from(["", " ", "  ", "\t"])
number = st.one_of(st.integers(0, 5).map(str), st.integers(0, 49).map(lambda tenths: f"{tenths / 10}"))
scale = st.sampled_from(
    ["", "/5", " / 5", " out of 5", " points", " point", "/5 points", " points out of 5", " (out of 5)"]
)
after = st.one_of(
    st.just(""),
    st.sampled_from([".", "!", ". Good.", "\n", "\nThat is 9/10 of what I hoped.", " - good", ", because it is good"]),
    no_statement.filter(lambda text: not _CLOSES.search(text)).map(lambda text: "\n" + text),
)
earlier = st.lists(
    st.sampled_from(["Score: 1\n", "**Score:** 2/5. ", "Score: 3-4\n", "Score: 8/10\n", "Relevance: 1 point.\n"]),
    max_size=3,
)


@settings(max_examples=400, deadline=None)
@given(no_statement, earlier, head, gap, wrap, number, scale, after)
def test_fuzz_the_last_well_formed_statement_is_the_score(before, statements, head, gap, wrap, number, scale, after):
    text = f"{before}\n{''.join(statements)}{head}{gap}{wrap[0]}{number}{scale}{wrap[1]}{after}"
    assert parse_score(text) == float(number), text


wrong = st.one_of(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(["-", " - ", "–", " to ", " or ", " or maybe ", ", ", " / "]),
        st.integers(0, 4),
    ).map(lambda p: f"{p[0]}{p[1]}{p[2]}"),
    st.integers(6, 10**9).map(str),
    st.integers(51, 99).map(lambda tenths: f"{tenths / 10}"),
    st.integers(1, 9).map(lambda n: f"-{n}"),
    st.tuples(st.integers(0, 5), st.integers(6, 100)).map(lambda p: f"{p[0]}/{p[1]}"),
    st.tuples(st.integers(0, 5), st.integers(6, 100)).map(lambda p: f"{p[0]} out of {p[1]}"),
    st.integers(0, 100).map(lambda n: f"{n}%"),
    st.sampled_from(["", "zero", "one", "four", "four out of five", "N/A", "high", "?"]),
)


@settings(max_examples=400, deadline=None)
@given(no_statement, earlier, head, gap, wrap, wrong, st.sampled_from(["", ".", "\n", " points", " points."]))
def test_fuzz_a_last_statement_that_is_no_score_is_none_whatever_came_before(
    before, statements, head, gap, wrap, wrong, end
):
    text = f"{before}\n{''.join(statements)}{head}{gap}{wrap[0]}{wrong}{wrap[1]}{end}"
    assert parse_score(text) is None, text


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet="Scoreſ:： 0123456789.,/-–+%*_`[]()<>\n\toutf5pinsr\"'|", max_size=60), st.booleans())
def test_fuzz_any_text_gives_none_or_a_number_on_the_scale_that_stands_in_it(text, truncated):
    score = parse_score(text, truncated=truncated)
    if score is not None:
        assert 0 <= score <= 5
        assert score in {float(found) for found in re.findall(r"[0-9]+(?:\.[0-9]+)?", text)}
        assert parse_score(text) == score  # truncation can only remove a score


@settings(max_examples=200, deadline=None)
@given(no_statement)
def test_fuzz_without_a_statement_there_is_no_score(text):
    assert parse_score(text) is None


def test_a_very_long_judgement_is_read_in_no_time():
    assert parse_score("score " * 50_000 + "Score: 4" + " " * 50_000) == 4
    assert parse_score("Score:" + " *" * 50_000) is None


# --- draws ------------------------------------------------------------------------------------------------------------


def test_the_mean_of_the_draws_is_not_rounded():
    assert aggregate((4.0, 4.0, 5.0), 2) == 13 / 3
    assert aggregate((4.0, None, 5.0), 2) == 4.5


def test_an_unparsed_draw_is_no_number_and_too_few_make_no_score():
    assert aggregate((5.0, None, None), 2) is None
    assert aggregate((5.0, None, None), 1) == 5
    assert aggregate((None, None, None), 0) is None
    assert aggregate((), 0) is None


@given(st.lists(st.integers(0, 50).map(lambda tenths: tenths / 10), min_size=1, max_size=9), st.randoms())
def test_the_order_of_the_draws_cannot_break_a_tie(scores, rng):
    shuffled = list(scores)
    rng.shuffle(shuffled)
    assert aggregate(scores, 1) == aggregate(shuffled, 1)


def test_one_greedy_judgement_needs_one_valid_score():
    assert judge_scores.required_valid(JudgeSection()) == 2
    assert judge_scores.required_valid(JudgeSection(method="expected")) == 1


def test_the_expected_score_weighs_the_digits_by_their_probability():
    mean, spread = expectation({3: math.log(0.2), 4: math.log(0.2)})
    assert mean == pytest.approx(3.5)
    assert spread == pytest.approx(0.5)
    assert expectation({score: -1000.0 - abs(score - 5) * 100 for score in range(6)})[0] == pytest.approx(5)


def test_a_judgements_spread_is_that_of_its_draws_or_of_the_distribution_that_was_read():
    sampled = Judgement("c", "p", (2.0, None, 4.0), ("a", "b", "c"), ("stop",) * 3)
    assert judge_scores.spread(sampled) == pytest.approx(1.0)
    assert judge_scores.spread(Judgement("c", "p", (3.4,), ("a",), ("stop",), spread=0.7)) == 0.7
    assert judge_scores.spread(Judgement("c", "p", (None,), ("a",), ("stop",))) is None


def test_the_judges_input_is_whole_and_too_long_is_a_reason_not_a_cut():
    template = templates.load(JudgeSection().template, templates.JUDGE)
    text = judge_scores.judge_input(template, "Why?\n<RESPONSE_HERE>", "Because. " * 1000)
    assert "User: Why?\n<RESPONSE_HERE>\n\n<response>Because. Because." in text
    assert text.count("Because. ") == 1000
    assert requests.too_long(3584, 512, 4096) == ""
    assert requests.too_long(3585, 512, 4096).startswith("too_long:")
