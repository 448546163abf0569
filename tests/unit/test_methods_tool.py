"""The methods' bench: every method's settings compose, tiny answers, the judge on content alone."""

from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose, save_resolved_config
from nemo_srlm.core.pipeline import pipeline
from nemo_srlm.core.records import RankedReply
from nemo_srlm.stages import load
from tools.bench import content_alone, methods
from tools.bench.tiny_answers import content


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_methods_settings_compose_and_its_stages_know_their_identity(name: str):
    cfg = compose("tiny", methods.METHODS[name])
    for ref in pipeline(cfg):
        load(ref.stage).identity(cfg, ref.iteration)


def test_the_page_of_methods_names_the_settings_of_every_method_in_the_bench():
    page = (Path(__file__).resolve().parents[2] / "docs/methods.md").read_text(encoding="utf-8")
    settings = {
        setting for some in methods.METHODS.values() for setting in some if not setting.startswith("pairs.answer")
    }
    assert {setting for setting in settings if setting not in page} == set()


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Here are two fruits and one tools: apple, banana, axe.", "apple, banana, axe"),
        ("apple, banana, axe. I hope this helps.", "apple, banana, axe"),
        ("In reverse order the words are fox, bear.", "fox, bear"),
        ("The three numbers up from 3 are 3, 4, 5.", "3, 4, 5"),
        ("The fruits in the list are pear.", "pear"),
        ("For the fox, the color is red, the food is fish.", "red, fish"),
        ("The animal with the color brown is the bear.", "bear"),
        ("Bear.", "bear"),
        (" ", None),
    ],
)
def test_a_tiny_answer_is_the_same_with_and_without_its_sentence(response: str, answer: str | None):
    assert content("", response) == answer


def test_a_run_that_is_not_there_has_a_row_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """--tabulate, after a bench that was stopped."""
    monkeypatch.setattr(methods, "ROOT", tmp_path)
    begun = tmp_path / "runs" / "methods-dev-7-vote"
    save_resolved_config(compose("tiny"), begun)
    lines, run_dirs = methods.table([7], ["vote", "ipo"], [], "dev", methods.stopped)
    assert [line.split("|")[1:4] for line in lines[1:]] == [
        [" 7 ", " paper ", " not run "], [" 7 ", " vote ", " not run to its end "], [" 7 ", " ipo ", " not run "],
    ]  # fmt: skip
    assert run_dirs == []
    assert {line.count("|") for line in lines[1:]} == {lines[0].splitlines()[0].count("|")}


def test_pairs_of_one_style_differ_in_content_alone():
    question = "Which animal has the color brown: bear, fox?"

    def reply(text: str) -> RankedReply:
        return RankedReply(text, "i", question, text, 0)

    right, wrong, framed = reply("bear."), reply("fox."), reply("The animal with the color brown is the bear.")
    assert content_alone.differs_in_content_alone(right, wrong)
    assert not content_alone.differs_in_content_alone(wrong, right)
    assert not content_alone.differs_in_content_alone(framed, wrong)
