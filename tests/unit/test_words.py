"""Words in any script: lengths, statistics, keywords, language tags."""

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.data.oasst import speaks
from nemo_srlm.data.prompt_filters import PromptFilter
from nemo_srlm.data.words import count_words, words_and_marks


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 0),
        ("one  two\nthree - four", 5),
        ("¿Qué tal?", 2),
        ("日本語、です。", 5),
        ("用 Python 3 写。", 4),
        ("สวัสดี", 4),
    ],
)
def test_words_are_between_blanks_or_single_characters(text: str, number: int):
    assert count_words(text) == number


def test_statistics_see_the_characters_of_a_script_without_blanks():
    assert words_and_marks("It's 3.") == ["it", "'", "s", "3", "."]
    assert words_and_marks("日本語AI。") == ["日", "本", "語", "ai", "。"]


@pytest.mark.parametrize(
    ("name", "good", "keyword", "short"),
    [
        ("japanese", "富士山の高さを教えてください。", "この画像を説明してください。", "なぜ？"),
        ("chinese", "请解释一下光合作用的过程。", "请描述一下这张图片的内容。", "为什么？"),
        ("thai", "จงอธิบายกระบวนการสังเคราะห์แสงของพืช", "จงอธิบายรูปภาพนี้ให้ละเอียดที่สุด", "ทำไม"),
        ("german", "Erkläre mir bitte die Photosynthese.", "Beschreibe das Bild an der Wand.", "Warum denn?"),
    ],
)
def test_the_filters_of_a_language_accept_its_prompts_and_find_its_keywords(name, good, keyword, short):
    made = PromptFilter(compose(name).prompts, [])
    assert made.accept([good, keyword, short, good + " "]) == ["", "keyword", "too_short", "rouge"]


def test_a_keyword_of_a_script_with_blanks_is_a_whole_word():
    section = compose("german").prompts
    assert PromptFilter(section, []).accept(["Was ist ein Bildungsroman von Goethe?"]) == [""]


@pytest.mark.parametrize(
    ("tag", "language", "found"),
    [
        ("pt-BR", "pt", True), ("PT", "pt", True), ("pt_PT", "pt-pt", True), ("pt", "pt-BR", False),
        ("est", "es", False), ("zh-Hant", "zh", True), ("en", "de", False),
    ],
)  # fmt: skip
def test_a_language_takes_its_varieties(tag: str, language: str, found: bool):
    assert speaks(tag, language) is found
