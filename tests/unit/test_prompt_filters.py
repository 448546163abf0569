"""Prompt filters: ROUGE-L decisions against rouge_score itself, other scripts, and a reason for every rejection."""

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import LCSseq

from nemo_srlm.config.checks import check_fields
from nemo_srlm.config.generation import PromptsSection
from nemo_srlm.data import rouge
from nemo_srlm.data.prompt_filters import PromptFilter
from nemo_srlm.data.rouge import RougeIndex, needed, rouge_f1, tokenize
from nemo_srlm.errors import ConfigError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
WORDS = ["name", "three", "rivers", "in", "europe", "and", "say", "why", "2", "x"]
sentence = st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join)


@pytest.fixture(scope="module")
def scorer():
    module = pytest.importorskip("rouge_score.rouge_scorer")
    return module.RougeScorer(["rougeL"], use_stemmer=False)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(sentence, max_size=12),
    st.lists(sentence, min_size=1, max_size=4),
    st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0]),
)
def test_every_decision_is_rouge_scores_own(scorer, pool, texts, threshold):
    index = RougeIndex(threshold)
    for text in pool:
        index.add(index.encode(text))
    expected = [any(scorer.score(old, text)["rougeL"].fmeasure > threshold for old in pool) for text in texts]
    assert [index.has_similar(index.encode(text)) for text in texts] == expected


@given(st.integers(1, 160), st.integers(1, 160), st.sampled_from([0.01, 0.5, 0.6, 0.7, 0.9, 1.0]))
def test_the_smallest_sufficient_subsequence_is_exact_in_floating_point(a, b, threshold):
    found = int(needed(threshold, a, np.array([b]))[0])
    above = [common for common in range(1, min(a, b) + 1) if rouge_f1(common, a, b) > threshold]
    assert found == (above[0] if above else 0)
    assert above == (list(range(found, min(a, b) + 1)) if found else [])


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7, 0.9])
@pytest.mark.parametrize(("length", "cut"), [(8, rouge.CUT), (40, rouge.CUT), (400, rouge.CUT), (40, 7), (40, 31)])
def test_no_pair_is_missed_among_texts_of_frequent_and_rare_words_with_changes(monkeypatch, threshold, length, cut):
    """Against all pairs. A changed text lacks words, or has others or the same ones in another order."""
    monkeypatch.setattr(rouge, "CUT", cut)
    rng = random.Random(length)
    words = [f"w{i}" for i in range(3000)]
    weights = [1 / (i + 1) for i in range(3000)]
    texts: list[list[str]] = []
    for _ in range(300):
        text = rng.choices(words, weights, k=rng.randint(1, length))
        if texts and rng.random() < 0.7:
            text = list(rng.choice(texts))
            for _ in range(rng.randint(0, len(text) // 3 + 1)):
                place = rng.randrange(len(text))
                text[place : place + rng.randint(0, 2)] = rng.choices(words, weights, k=rng.randint(0, 2)) or text[:1]
        texts.append(text)
    index = RougeIndex(threshold)
    codes = [index.encode(" ".join(text)) for text in texts]
    expected, found = [], []
    for i, code in enumerate(codes):
        scores = [rouge_f1(LCSseq.similarity(code, old) or 1e-9, len(code), len(old)) for old in codes[:i]]
        expected.append(any(score > threshold for score in scores))
        found.append(index.has_similar(code))
        index.add(code)
    assert found == expected
    assert 0 < sum(found) < len(found)


@pytest.mark.parametrize("tokenization", ["rouge", "unicode"])
@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize(("long", "parts", "short"), [(2, 256, 64), (5, 256, 10), (5, 2, 64), (2, 1, 4)])
def test_no_pair_is_missed_where_lists_are_divided_by_a_second_word(
    monkeypatch, tokenization, threshold, long, parts, short
):
    """Against all pairs, of few different words, so that most lists are divided and most texts have a word twice."""
    for name, value in (("LONG", long), ("PARTS", parts), ("SHORT", short)):
        monkeypatch.setattr(rouge, name, value)
    rng = random.Random(long * parts)
    for words in (3, 8, 40):
        index, pool, found = RougeIndex(threshold, tokenization), list[list[int]](), list[bool]()
        for _ in range(150):
            drawn = [
                min(rng.randrange(words), rng.randrange(words)) for _ in range(rng.choice([1, 2, 3, 6, 9, 12, 25]))
            ]
            code = index.encode(" ".join(f"w{i}" for i in drawn))
            scores = [rouge_f1(LCSseq.similarity(code, old) or 1e-9, len(code), len(old)) for old in pool]
            found.append(index.has_similar(code))
            assert found[-1] == any(score > threshold for score in scores)
            pool.append(code)
            index.add(code)
        assert index._divided
        assert True in found


def test_a_text_of_more_words_than_an_entry_can_count_is_found():
    index = RougeIndex(0.1)
    long = " ".join(f"w{i}" for i in range(70_000, 0, -1))
    index.add(index.encode(long))
    found = [index.has_similar(index.encode(text)) for text in (long + " more", "w1 w2", "")]
    assert found == [True, False, False]


def test_decisions_on_real_prompts_are_rouge_scores_own(scorer):
    path = DATA / "self_instruct_seed_tasks.jsonl"
    if not path.exists():
        pytest.skip("../shared/data is absent")
    texts = [json.loads(line)["instruction"] for line in path.read_text(encoding="utf-8").splitlines()][:60]
    texts += [" ".join(text.split()[: -(i % 3 + 1)]) for i, text in enumerate(texts)]  # near-copies
    random.Random(0).shuffle(texts)
    section = PromptsSection(min_words=0, max_words=999, keywords=[], starts=[], ascii_start=False)
    kept: list[str] = []
    for text in texts:
        if all(scorer.score(old, text)["rougeL"].fmeasure <= section.rouge_max for old in kept):
            kept.append(text)
    one_by_one, at_once = PromptFilter(section, []), PromptFilter(section, [])
    assert [t for t in texts if not one_by_one.accept([t])[0]] == kept
    assert [t for t, reason in zip(texts, at_once.accept(texts), strict=True) if not reason] == kept
    assert 0 < len(kept) < len(texts)


@given(st.lists(sentence, max_size=20), st.integers(1, 20))
def test_the_size_of_a_round_does_not_change_what_is_accepted(texts, size):
    section = PromptsSection(min_words=2, keywords=["europe"])
    whole, parts = PromptFilter(section, ["name three rivers"]), PromptFilter(section, ["name three rivers"])
    reasons = [reason for start in range(0, len(texts), size) for reason in parts.accept(texts[start : start + size])]
    assert whole.accept(texts) == reasons
    assert whole.counts == parts.counts
    assert sum(whole.counts.values()) == len(texts)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Name three rivers of Europe.", ""),
        ("", "empty"),
        ("Name three rivers", "too_short"),  # Self-Instruct: 3 words or fewer
        ("Name three European rivers", ""),
        ("word " * 150, ""),
        ("word " * 151, "too_long"),
        ("Describe what the Image shows here.", "keyword"),
        ("Tell me where to go to this evening.", "keyword"),
        ("Draw a conclusion from these facts.", "keyword"),
        ("Explain photographs and mapping to a child.", ""),  # keywords match whole words only
        ("Write a program that sorts a list.", "start"),
        ("Write a programme for a school play.", "start"),  # Self-Instruct compares a prefix, not words
        ("¿Cuál es la capital de Francia hoy?", "first_character"),
        ("- name three rivers of Europe", "first_character"),
        ("Überlege dir drei Namen für Katzen.", "first_character"),
        ("3 rivers of Europe are what?", ""),
    ],
)
def test_self_instructs_filters_with_their_defaults(text: str, reason: str):
    found = PromptFilter(PromptsSection(), [])
    assert found.accept([text.strip()])[0] == reason
    assert found.counts == {reason or "accepted": 1}


def test_seeds_duplicates_near_copies_and_held_out_prompts_are_rejected():
    found = PromptFilter(PromptsSection(), ["Name three rivers of Europe."], ["What is the tallest tree on earth?"])
    assert found.accept(["Name three rivers of Europe."])[0] == "duplicate"
    assert found.accept(["Name three long rivers of Europe."])[0] == "rouge"
    assert found.accept(["what is the tallest tree on Earth"])[0] == "held_out"
    assert found.accept(["How do bees find their way home?"] * 2) == ["", "duplicate"]
    assert found.accept(["Why is the sky so blue today?", "Why is the sky so blue?"]) == ["", "rouge"]


def test_rouge_scores_tokens_lose_other_scripts_and_unicode_tokens_keep_them():
    assert tokenize("Grüße, 東京 2x!") == ["gr", "e", "2x"]
    assert tokenize("Grüße, 東京 2x!", "unicode") == ["grüsse", "東", "京", "2x"]
    assert tokenize("किताबें पढ़ो", "unicode") == ["किताबें", "पढ़ो"] or len(tokenize("किताबें पढ़ो", "unicode")) == 2
    assert tokenize("snake_case don't", "unicode") == ["snake", "case", "don", "t"]


def test_other_languages_are_compared_as_they_are_written():
    section = PromptsSection(
        tokenization="unicode", ascii_start=False, keywords=["Bild"], starts=["Schreibe ein Programm"]
    )
    found = PromptFilter(section, ["Wie heißt die größte Stadt in Österreich?"])
    assert found.accept(["Wie heißt die grösste Stadt in Österreich"])[0] == "rouge"
    assert found.accept(["Übersetze diesen Satz ins Spanische."])[0] == ""
    assert found.accept(["Beschreibe das Bild in drei Sätzen."])[0] == "keyword"
    assert found.accept(["ПОЧЕМУ небо голубое днём?"])[0] == ""
    assert found.accept(["Почему небо голубое днём?"])[0] == "rouge"
    assert found.accept(["日本の首都はどこですか"])[0] == ""  # words without spaces are counted by character
    assert found.accept(["日本の首都はどこでしたか"])[0] == "rouge"


def test_texts_that_rouge_tokens_cannot_compare_are_rejected_with_a_reason():
    section = PromptsSection(ascii_start=False)
    assert PromptFilter(section, []).accept(["Почему небо такое голубое?"])[0] == "no_tokens"


def test_real_german_and_spanish_first_turns_pass_the_unicode_filters():
    path = DATA / "oasst_sample.trees.jsonl.gz"
    if not path.exists():
        pytest.skip("../shared/data is absent")
    with gzip.open(path, "rt", encoding="utf-8") as f:
        prompts = [json.loads(line)["prompt"] for line in f]
    texts = list(dict.fromkeys(p["text"].strip() for p in prompts if p["lang"] in ("de", "es")))
    found = PromptFilter(PromptsSection(tokenization="unicode", ascii_start=False), [])
    found.accept(texts)
    assert found.counts["accepted"] > 0.7 * len(texts) > 40
    assert sum(found.counts.values()) == len(texts)


def test_unknown_tokenizations_and_thresholds_are_refused():
    with pytest.raises(ConfigError, match="tokenization"):
        check_fields(PromptsSection(tokenization="words"), "prompts")
    with pytest.raises(ConfigError, match="rouge_max"):
        check_fields(PromptsSection(rouge_max=1.5), "prompts")
    assert PromptFilter(PromptsSection(rouge_max=1.0), ["a b c d"]).accept(["a b c d e"])[0] == ""
