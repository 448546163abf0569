"""Building pairs from scores: the rule, its variants, and a reason for every prompt without a pair."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_srlm.config.checks import check_fields
from nemo_srlm.config.generation import PairsSection
from nemo_srlm.errors import ConfigError
from nemo_srlm.judge import pairing
from nemo_srlm.judge.pairing import Scored, choose_pairs, select

scored = st.builds(
    Scored, st.sampled_from(["a", "bb", "ccc", "dddd", ""]), st.none() | st.integers(0, 15).map(lambda n: n / 3)
)
section = st.builds(
    PairsSection,
    rule=st.sampled_from(["max_min", "length_controlled"]),
    min_margin=st.sampled_from([0.0, 0.5, 2.0]),
    rho=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
    max_per_prompt=st.integers(1, 4),
)


def candidates(*scores: float | None) -> list[Scored]:
    return [Scored(f"text {i}", score) for i, score in enumerate(scores)]


def texts(found: pairing.Pairs | str) -> list[tuple[str, str]]:
    assert isinstance(found, list), found
    return [(chosen.text, rejected.text) for chosen, rejected in found]


@pytest.mark.parametrize(
    ("scores", "pair"),
    [
        ((3.0, 5.0, 1.0, 2.0), (1, 2)),
        ((4.0, 13 / 3, 4.0, 4.0), (1, 0)),  # the mean is not rounded to 4: no tie
        ((5.0, None, None, 4.0), (0, 3)),  # an unparsed candidate is never the rejected one
        ((None, 2.0, 1.0, None), (1, 2)),
        ((5.0, 5.0, 1.0, 1.0), (0, 2)),  # equal scores: the earlier candidate
        ((0.0, 3.0), (1, 0)),  # 0 is a score
    ],
)
def test_the_best_stands_against_the_worst(scores, pair):
    assert texts(select(candidates(*scores), PairsSection())) == [(f"text {pair[0]}", f"text {pair[1]}")]


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([], "no_candidates"),
        (candidates(None, None, None, None), "too_few_eligible"),
        (candidates(5.0, None, None, None), "too_few_eligible"),
        (candidates(4.0, 4.0, None, 4.0), "tie"),
        ([Scored("same", 5.0), Scored("same", 1.0)], "same_text"),
        ([Scored("same", 5.0), Scored("other", None)], "too_few_eligible"),
    ],
)
def test_a_prompt_without_a_pair_has_a_reason(items, reason):
    assert select(items, PairsSection()) == reason


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("scores", [(5.0, 1.0), (5.0, None), (None, None)])
def test_one_text_for_all_candidates_is_that_reason(scores, pooled: bool):
    section = PairsSection(pool_equal_texts=pooled)
    assert choose_pairs([Scored("same", s) for s in scores], "p", section, None) == "same_text"
    assert choose_pairs([Scored("same", 5.0)], "p", section, None) == "too_few_eligible"


@pytest.mark.parametrize("pooled", [False, True])
def test_one_text_for_all_candidates_with_a_score_is_that_reason_too(pooled: bool):
    candidates = [Scored("a", 3.0), Scored("a", 4.0), Scored("b", None)]
    assert choose_pairs(candidates, "p", PairsSection(pool_equal_texts=pooled), None) == "same_text"


@pytest.mark.parametrize("pooled", [False, True])
def test_candidates_that_could_not_be_generated_are_not_one_text(pooled: bool):
    section, failed = PairsSection(pool_equal_texts=pooled), Scored("", None, made=False)
    assert choose_pairs([failed] * 4, "p", section, None) == "no_candidates"
    assert choose_pairs([failed, failed, Scored("a", 1.0)], "p", section, None) == "too_few_eligible"
    assert choose_pairs([Scored("", 1.0)] * 2, "p", section, None) == "same_text"
    assert choose_pairs([Scored("", None)] * 2, "p", section, None) == "same_text"  # made, and empty


def test_differences_up_to_the_margin_make_no_pair():
    assert select(candidates(4.0, 3.0), PairsSection(min_margin=1.0)) == "margin"
    assert texts(select(candidates(4.0, 2.5), PairsSection(min_margin=1.0))) == [("text 0", "text 1")]


def test_equal_texts_are_no_pair_but_do_not_cost_the_prompt_its_other_pair():
    items = [Scored("same", 5.0), Scored("same", 1.0), Scored("other", 2.0)]
    assert texts(select(items, PairsSection())) == [("same", "other")]
    assert (
        select([Scored("a", 5.0), Scored("a", 1.0), Scored("b", 4.0)], PairsSection(min_margin=3.5))
        == "same_text_or_margin"
    )


def test_equal_texts_may_be_pooled_into_one_candidate_with_the_mean_score():
    items = [Scored("same", 5.0), Scored("same", 1.0), Scored("other", 4.0), Scored("none", None)]
    pooled = pairing.pool_equal_texts(items)
    assert pooled == [Scored("same", 3.0), Scored("other", 4.0), Scored("none", None)]
    assert texts(select(pooled, PairsSection())) == [("other", "same")]


def test_length_control_takes_the_shortest_of_the_near_best_and_the_longest_of_the_near_worst():
    items = [
        Scored("long " * 9, 5.0),
        Scored("short", 4.6),
        Scored("bad", 1.0),
        Scored("bad and long", 1.4),
        Scored("x", 3.0),
    ]
    assert texts(select(items, PairsSection(rule="length_controlled", rho=0.1))) == [("short", "bad and long")]
    assert texts(select(items, PairsSection(rule="length_controlled", rho=0.0))) == [("long " * 9, "bad")]
    assert texts(select(items, PairsSection(rule="max_min", rho=0.1))) == [("long " * 9, "bad")]


def test_nearness_is_a_share_of_the_prompts_own_range():
    """Meta-Rewarding's tiers: of 4.0 to 3.4 the best tenth is [3.94, 4.0]."""
    items = [Scored("l" * 50, 4.0), Scored("s" * 10, 3.6), Scored("m" * 30, 3.5), Scored("x" * 80, 3.4)]
    found = {rho: texts(select(items, PairsSection(rule="length_controlled", rho=rho))) for rho in (0.1, 0.7)}
    assert found == {0.1: [("l" * 50, "x" * 80)], 0.7: [("s" * 10, "x" * 80)]}


def test_length_control_never_prefers_the_worse():
    items = [Scored("a", 3.0), Scored("bbbb", 3.4)]
    assert texts(select(items, PairsSection(rule="length_controlled", rho=1.0))) == [("bbbb", "a")]


def test_several_pairs_a_prompt_come_in_order_of_their_difference():
    found = texts(select(candidates(5.0, 1.0, 4.0), PairsSection(max_per_prompt=9)))
    assert found == [("text 0", "text 1"), ("text 2", "text 1"), ("text 0", "text 2")]
    assert texts(select(candidates(5.0, 1.0, 4.0), PairsSection(max_per_prompt=2))) == found[:2]


@given(st.lists(scored, max_size=6), section)
def test_whatever_comes_pairs_keep_the_rules(items, section):
    found = select(items, section)
    if isinstance(found, str):
        assert found in {"no_candidates", "too_few_eligible", "same_text", "tie", "margin", "same_text_or_margin"}
        return
    assert 1 <= len(found) <= section.max_per_prompt
    assert len({(c.text, r.text) for c, r in found}) == len(found)
    assert not {(c.text, r.text) for c, r in found} & {(r.text, c.text) for c, r in found}
    for chosen, rejected in found:
        assert chosen in items
        assert rejected in items
        assert chosen.text != rejected.text
        assert chosen.score is not None
        assert rejected.score is not None
        assert chosen.score - rejected.score > section.min_margin


@given(st.lists(st.none() | st.integers(0, 5).map(float), min_size=1, max_size=6))
def test_max_min_has_the_largest_difference_and_drops_only_what_it_must(scores):
    found = select(candidates(*scores), PairsSection())
    valid = [score for score in scores if score is not None]
    if isinstance(found, str):
        assert len(valid) < 2 or min(valid) == max(valid)
    else:
        assert (found[0][0].score, found[0][1].score) == (max(valid), min(valid))


@given(st.lists(scored, min_size=1, max_size=5), st.integers(0, 9), st.text(max_size=4))
def test_the_random_control_shuffles_scores_among_the_eligible_candidates_only(items, seed, prompt_id):
    shuffled = pairing.permute_scores(items, seed, prompt_id)
    assert [c.text for c in shuffled] == [c.text for c in items]
    assert [c.score is None for c in shuffled] == [c.score is None for c in items]
    assert sorted(c.score for c in shuffled if c.score is not None) == sorted(
        c.score for c in items if c.score is not None
    )
    assert shuffled == pairing.permute_scores(items, seed, prompt_id)


def test_the_random_control_is_uniform_over_prompts():
    items = candidates(1.0, 2.0, 3.0)
    seen = [tuple(c.score for c in pairing.permute_scores(items, 0, f"p{i}")) for i in range(600)]
    assert all(70 < seen.count(order) < 130 for order in permutations((1.0, 2.0, 3.0)))


def test_a_pairs_id_is_its_content():
    pair = select(candidates(5.0, 1.0), PairsSection())
    assert isinstance(pair, list)
    (first,), (again,) = pairing.to_records("p", "Why?", pair), pairing.to_records("p", "Why?", pair)
    assert first == again
    assert (first.chosen_score, first.rejected_score) == (5.0, 1.0)


@pytest.mark.parametrize("wrong", [{"rule": "best"}, {"min_margin": -1.0}, {"rho": 2.0}, {"max_per_prompt": 0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"pairs\."):
        check_fields(PairsSection(**wrong), "pairs")


def test_equal_texts_of_an_earlier_model_are_pooled_too():
    ours = [Scored("best", 5.0), Scored("worse", 2.0)]
    anchors = [Scored("often", 0.0), Scored("often", 4.0), Scored("once", 1.0), Scored("", None, made=False)]
    assert texts(choose_pairs(ours, "p", PairsSection(), None, anchors)) == [("best", "often")]
    pooled = PairsSection(pool_equal_texts=True)  # "often" has the mean of its copies, 2
    assert texts(choose_pairs(ours, "p", pooled, None, anchors)) == [("best", "once")]
    assert choose_pairs(ours, "p", pooled, None, []) == "no_anchors"
