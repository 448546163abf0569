"""What of a writer's output is the prompt: without label and chat, and never without the input that it asks about."""

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.config.generation import PromptsSection
from nemo_srlm.data import templates
from nemo_srlm.data.written import Reader
from nemo_srlm.errors import ConfigError


def reader(section: PromptsSection | None = None) -> Reader:
    section = section or PromptsSection()
    return Reader.of(section, templates.load_shots(section.template))


@pytest.mark.parametrize(
    "text",
    [
        "Task 9: Name a bear.",
        "**Task 12:** Name a bear.\n###",
        "Sure! Here is a new task:\n\nName a bear.",
        'Sure, here\'s another task for your list: "Name a bear."',
        "Certainly! Here is a task that is unlike the ones before it:\nTask 9: Name a bear.",
        "New task: Name a bear.",
        "Sure! Name a bear.",
        "9. Name a bear.",
        "Name a bear.\nInput: None",
        "Name a bear.\nInput:\nOutput: Bruno",
        "Name a bear.\nInput: <noinput>\nOutput: Bruno",
    ],
)
def test_label_and_chat_before_a_task_are_removed(text: str):
    assert reader().read(text, False) == ("Name a bear.", "")


@pytest.mark.parametrize(
    "text",
    [
        "Summarize the text.\n\nInput: Bears are big.\nOutput: Big bears.",
        "Translate the following sentence:",
        "Summarize the following article.",
        "Summarize the following e-mail in 3 sentences.",
        "Task 9: Rewrite the given sentence.",
        "Explain the above.",
        "Summarize it in one line.\nInput:",
        "Summarize it in one line.\nInput: \n###\nTask 10:",
        "Summarize it in one line.\n\n**Input:**",
        "Input:",
    ],
)
def test_a_task_whose_input_is_not_there_is_refused(text: str):
    assert reader().read(text, False) == ("", "needs_input")


def test_a_task_that_was_cut_at_its_input_is_refused():
    assert reader().read("Rewrite a sentence.\nInput:", True) == ("", "needs_input")
    assert reader().read("Name a bear.\nInput:\nOutput: Bru", True) == ("Name a bear.", "")


@pytest.mark.parametrize(
    "text",
    [
        "Answer the following question: why is the sky blue?",
        "Which of the following is a mammal? dog, fish",
        "Add the following numbers 3 and 5.",
        "Why does water freeze below zero?",
        "Here is a list of words: cat, dog. Sort them.",
        "Sure, the sky is blue, but why?",
        "Explain what a task is: give examples.",
        "What is a given name?",
    ],
)
def test_a_task_that_is_whole_stays_as_it_is(text: str):
    assert reader().read(text, False) == (text, "")


def test_what_is_left_of_nothing_is_empty_and_what_has_no_end_is_truncated():
    assert reader().read("Task 9:", False) == ("", "empty")
    assert reader().read("Sure! Here is a new task: Name", True) == ("", "truncated")
    assert reader().read("Name a bear.\n###\nTask 10: Name", True) == ("Name a bear.", "")


def test_generation_goes_on_behind_the_mark_of_an_input():
    stops = reader().stops
    assert "\nInput:" not in stops
    assert {"###", "\nOutput:"} <= set(stops)


@pytest.mark.parametrize(
    ("name", "chat", "wanted", "asks"),
    [
        ("german", "Gerne! Hier ist eine neue Aufgabe:\nAufgabe 9: ", "Nenne einen Bären.", "Kürze den folgenden Text."),
        ("spanish", "¡Claro! Aquí tienes una nueva tarea:\n\n", "Nombra un oso.", "Resume el siguiente texto."),
        ("japanese", "はい、次が新しいタスクです：\nタスク9：", "クマの名前を挙げてください。", "次の文章を要約してください。"),
        ("chinese", "好的，这是一个新任务：\n任务9：", "请说出一种熊的名字。", "请总结下面的文章。"),
        ("thai", "ได้เลย! นี่คืองานใหม่:\nงานที่ 9: ", "จงบอกชื่อหมีหนึ่งชนิด", "จงสรุปบทความต่อไปนี้"),
    ],
)  # fmt: skip
def test_a_language_has_its_own_words(name: str, chat: str, wanted: str, asks: str):
    made = reader(compose(name).prompts)
    assert made.read(chat + wanted, False) == (wanted, "")
    for mark in made.input_marks:
        assert made.read(f"{wanted}{mark}", False) == made.read(f"{wanted}{mark} \n###", False) == ("", "needs_input")
    assert made.read(asks, False) == ("", "needs_input")


def test_an_opening_that_is_no_regular_expression_is_refused():
    with pytest.raises(ConfigError, match=r"prompts\.openings.*unterminated|prompts\.openings.*missing"):
        compose("tiny", ['prompts.openings=["(sure"]'])
