"""The tiny world's questions: words, wordings that parse back, and the splits of each world seed."""

import random
from collections import Counter
from itertools import permutations

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.tiny_world import oracle, words
from nemo_srlm.tiny_world.held_out import forbidden_prompt
from nemo_srlm.tiny_world.questions import (
    FAMILIES,
    Question,
    Split,
    draw,
    is_held_out,
    parse,
    render,
    split_of,
    wording,
)

SPLITS = TRAIN, *_ = [Split(0, name) for name in ("train", "dev", "test")]


def test_categories_are_alphabetical_and_no_word_means_two_things() -> None:
    assert all(list(found) == sorted(found) for found in words.CATEGORIES.values())
    values = {value for known in words.ATTRIBUTES.values() for value in known}
    assert len(words.NOUNS) == 38 == len(set(words.NOUNS))
    assert not values & set(words.NOUNS)
    assert sum(len(known) for known in words.ATTRIBUTES.values()) == len(values) == 18
    assert set(words.ANIMALS) == set(words.FACTS)
    assert all(words.FACTS[a][n] in words.ATTRIBUTES[n] for a in words.ANIMALS for n in words.ATTRIBUTES)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_wording_of_a_question_parses_back_to_it(family: str) -> None:
    rng = random.Random(1)
    for _ in range(100):
        question = draw(rng, rng.choice(SPLITS), family)
        for phrasing in range(4):
            for prefix in ("", *words.PREFIXES):
                assert parse(render(question, phrasing, prefix)) == question


@pytest.mark.parametrize(
    "text", ["", "Name two fruits.", "Count four numbers down from 3.", "Reverse these words: apple, apple.", "What is love?",
             "Pick the fruits from axe, saw.", "Pick the fruits from pear, apple, saw.",
             "Which animal has the color red: fox, fox?", "Of fox, who has the color red?", "Of fox, axe, who has the color red?",
             "Of fox, hen, who has the color red?", "Of bear, owl, who has the color red?",
             "Of fox, bear, lion, owl, who has the color red?", "Count two numbers up from 3.",
             "What is the color and home and food of the fox?", "Name two fruits and one fruits."]
)  # fmt: skip
def test_what_is_no_question_of_this_world_has_no_score(text: str) -> None:
    assert parse(text) is None
    assert oracle.score(text, "apple.") is None


def test_splits_share_no_combination_and_have_their_shares() -> None:
    rng = random.Random(2)
    train, dev, test = ({draw(rng, s, f).combination for f in FAMILIES for _ in range(150)} for s in SPLITS)
    assert not train & dev
    assert not train & test
    assert not dev & test
    facts = [
        Question("fact", (a, *names))
        for a in words.ANIMALS
        for n in (1, 2)
        for names in permutations(words.ATTRIBUTES, n)
    ]
    assert Counter(split_of(fact, 0) for fact in facts) == {"train": 58, "dev": 7, "test": 7}


def test_another_seed_holds_out_other_combinations() -> None:
    """Otherwise the seeds of a result share the luck of a few questions."""
    rng = random.Random(3)
    held_out = [{draw(rng, Split(seed, "test"), "fact").combination for _ in range(300)} for seed in range(5)]
    assert [len(found) for found in held_out] == [7] * 5
    assert len(set.union(*held_out)) > 20


def test_prompts_of_held_out_combinations_are_known_by_their_text() -> None:
    rng = random.Random(8)
    assert not any(is_held_out(wording(rng, draw(rng, TRAIN)), 0) for _ in range(200))
    assert all(is_held_out(wording(rng, draw(rng, split)), 0) for split in SPLITS[1:] for _ in range(100))
    assert any(is_held_out(wording(rng, draw(rng, TRAIN)), 1) for _ in range(200))
    assert not is_held_out("What is love?", 0)


@pytest.mark.parametrize(
    "spelt", ["Hello. Hello. {}", "Quick question. Hello. Please help. {}", "Hello. Please help. {}"]
)
def test_more_prefixes_hide_no_held_out_question(spelt: str) -> None:
    """A written prompt may have them: unknown, it would be trained on."""
    text = render(draw(random.Random(4), SPLITS[1], "who"), 0)
    assert is_held_out(spelt.format(text), 0)


def test_another_spelling_of_a_number_is_no_other_question() -> None:
    assert (
        parse("Count three numbers up from 05.")
        == parse("Count three numbers up from 5.")
        == Question("count", ("three", "up", "5"))
    )


def test_the_run_leaves_out_what_its_own_world_holds_out() -> None:
    rng = random.Random(5)
    texts = [wording(rng, draw(rng, Split(1, "dev"))) for _ in range(200)]
    here, elsewhere = (forbidden_prompt(compose("tiny", [f"world.seed={seed}"])) for seed in (1, 0))
    assert all(here(text) for text in texts)
    assert not all(elsewhere(text) for text in texts)
    assert not any(forbidden_prompt(compose("tiny", ["world.seed=1", "world.enabled=false"]))(text) for text in texts)


def test_order_of_the_words_to_choose_from_makes_no_new_combination() -> None:
    for family, asked, words_ in (("filter", ("fruits",), ("axe", "pear")), ("who", ("color", "red"), ("fox", "bear"))):
        one, other = (Question(family, (*asked, *order)) for order in (words_, words_[::-1]))
        assert one.combination == other.combination
    assert Question("reverse", ("axe", "pear")).combination != Question("reverse", ("pear", "axe")).combination
