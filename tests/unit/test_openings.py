"""What stands before a written task: greeting, announcement and label are cut in eleven languages, a real task is not."""

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.config.generation import PromptsSection
from nemo_srlm.data import templates
from nemo_srlm.data.openings import LANGUAGES
from nemo_srlm.data.written import Reader

CUT = {
    "en": (
        "Name a bear.",
        [
            "Task 9 - {}",
            "- Task 9: {}",
            "Task 9 —\n{}",
            "Task 9 | {}",
            "Sure! 😊 Here's one: {}",
            "Sure 😊! {}",
            "Okay.\n{}",
            "Here is your new task:\n{}",
            "Here's a unique task that hasn't been covered yet:\n{}",
            "Task 9 — {}",
            "**Task 9**\n{}",
            "**Task 9** {}",
            "[Task 9] {}",
            "### Task 9\n{}",
            "Task #9: {}",
            "Task 9 of 10: {}",
            "**Task 9: {}**",
            "New Task 9: {}",
            "Question 9. {}",
            "Sure! Here's one:\n{}",
            "Sure, here's one: {}",
            "Here is another task: {}",
            "Here is another task:\n\n{}",
            "Another one: {}",
            "One more task: {}",
            "Here you go:\n{}",
            "The next task is: {}",
            "Of course. {}",
            "I'd be happy to help! Here's a new task:\n\n{}",
            "Here's another task, unlike the others: {}",
            "Okay! Task 9: {}",
            "Here is a task I came up with: {}",
            'Here is a new task for your list: "{}"',
            "**Task 9:** **{}**",
            "Sure! Here is a new task:\n- {}",
        ],
    ),
    "de": (
        "Nenne einen Bären.",
        [
            "Aufgabe 9 - {}",
            "Aufgabe Nr. 9: {}",
            "Gerne! Hier ist eine neue Aufgabe:\n{}",
            "Hier ist noch eine: {}",
            "Natürlich! {}",
            "Klar, hier kommt die nächste Aufgabe: {}",
            "Hier ist eine weitere Aufgabe für dich:\n\n{}",
            "**Aufgabe 9**\n{}",
        ],
    ),
    "fr": (
        "Nomme un ours.",
        [
            "Tâche 9 : {}",
            "Tâche 9 - {}",
            "Bien sûr ! Voici une nouvelle tâche :\n{}",
            "En voici une autre : {}",
            "Exercice 9 — {}",
        ],
    ),
    "es": (
        "Nombra un oso.",
        [
            "Tarea 9 - {}",
            "¡Claro! Aquí tienes otra: {}",
            "Por supuesto, aquí está la siguiente tarea: {}",
            "Otra tarea: {}",
            "¡Por supuesto! {}",
        ],
    ),
    "it": (
        "Nomina un orso.",
        [
            "Compito 9: {}",
            "Certo! Ecco un altro compito: {}",
            "Attività 9 — {}",
        ],
    ),
    "pt": (
        "Nomeie um urso.",
        [
            "Tarefa 9: {}",
            "Claro! Aqui está uma nova tarefa:\n{}",
            "**Tarefa 9**\n{}",
        ],
    ),
    "ru": (
        "Назови медведя.",
        [
            "Задание 9 — {}",
            "Конечно! Вот новое задание:\n{}",
            "Следующая задача: {}",
        ],
    ),
    "ko": (
        "곰의 이름을 말하세요.",
        [
            "과제 9: {}",
            "물론입니다! 여기 새로운 과제가 있습니다:\n{}",
            "다음 질문: {}",
        ],
    ),
    "ja": (
        "クマの名前を挙げてください。",
        [
            "課題9：{}",
            "課題９：{}",
            "**課題9**\n{}",
            "課題9 - {}",
            "【課題9】{}",
            "お題：{}",
            "次の課題：{}",
            "はい、新しい課題です：{}",
            "承知しました。次の課題です。\n{}",
            "もちろんです。新しいタスクはこちらです：{}",
        ],
    ),
    "zh": (
        "请说出一种熊的名字。",
        [
            "任务9：{}",
            "任务九：{}",
            "**任务9**\n{}",
            "任务9——{}",
            "第9个任务：{}",
            "好的，这是一个新任务：{}",
            "好的，这是另一个任务：\n{}",
            "当然可以！以下是一个新的任务：\n\n{}",
            "没问题，下面是下一个任务：\n任务9：{}",
            "题目9：{}",
        ],
    ),
    "th": (
        "จงบอกชื่อหมีหนึ่งชนิด",
        [
            "งานที่ 9: {}",
            "งานที่ ๙: {}",
            "**งานที่ 9**\n{}",
            "โจทย์ข้อ 9: {}",
            "แน่นอนค่ะ นี่คืองานใหม่: {}",
            "นี่คืองานใหม่อีกหนึ่งงาน:\n{}",
        ],
    ),
}
STAYS = [
    "Task management: write a plan for a team.",
    "Task-based learning: what is it?",
    "Task 9 is due tomorrow: what should I do?",
    "Here is a list of tasks: buy milk, cook. Sort them.",
    "Here is a task list: buy milk, cook. Sort it.",
    "Here is a task that my boss gave me: write a report. How do I say no?",
    "Here is my prompt: a cat in space. Improve it.",
    "Here are the instructions: mix flour and milk. Rewrite them politely.",
    "Problem: my cat is ill. What should I do?",
    "Great Expectations: who wrote it?",
    "Of course the earth is round, but how do we know?",
    "Certainly is an adverb. Name another one.",
    "Question everything: is that good advice?",
    "The next question is hard: why is there anything?",
    "1990. What happened in that year?",
    "Another brick in the wall: who sang it?",
    "New York: what should I see there in two days?",
    "**Bold** words: when should I use them?",
    '"To be or not to be": who says it?',
    "Aufgaben im Haushalt: wie teilt man sie auf?",
    "Klar ist das Wasser, aber warum?",
    "Natürlich wachsende Zahlen: was ist das?",
    "Claro que el cielo es azul, pero ¿por qué?",
    "Tareas domésticas: ¿cómo se reparten?",
    "課題管理の方法を三つ挙げてください。",
    "はいという返事の英語を教えてください。",
    "任务管理：请写一个三步的计划。",
    "以下是任务列表：买菜、做饭。请按时间排序。",
    "好的老师有哪些特点？请举例。",
    "งานบ้านมีอะไรบ้าง จงยกตัวอย่างสามข้อ",
    "ได้เวลานอนแล้วควรทำอย่างไรดี",
]
SHIPPED = {"de": "german", "es": "spanish", "ja": "japanese", "zh": "chinese", "th": "thai"}


def reader(language: str = "en") -> Reader:
    section = compose(SHIPPED[language]).prompts if language in SHIPPED else PromptsSection()
    return Reader.of(section, templates.load_shots(section.template))


@pytest.mark.parametrize("language", LANGUAGES)
def test_openings_are_cut_in_any_language_whatever_the_config(language: str):
    task, openings = CUT[language]
    for made in (reader(language), reader("en"), reader("ja")):
        for opening in openings:
            assert made.read(opening.format(task), False) == (task, ""), opening


def test_a_real_task_that_begins_like_an_opening_stays():
    for language in ("en", *SHIPPED):
        for task in STAYS:
            assert reader(language).read(task, False) == (task, ""), (language, task)


def test_a_list_keeps_its_numbers_and_bullets_behind_an_opening():
    task = "Rank these:\n- a cat - small\n- a dog\n> a bear"
    assert reader().read(f"Sure! Here's one:\n{task}", False) == (task, "")
    listed = "1. Name a bear.\n2. Name a cat."
    assert reader().read(listed, False) == (listed, "")
    assert reader().read("1. Name a bear.", False) == ("Name a bear.", "")


def test_a_german_date_is_no_number_of_a_list():
    task = "3. Oktober 1990: was geschah an diesem Tag?"
    assert reader("de").read(task, False) == (task, "")
    assert reader("de").read(f"9. {task}", False) == (task, "")
