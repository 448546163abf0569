"""Templates: the judge prompt equals the paper's; error messages for wrong template files."""

import hashlib
from pathlib import Path

import pytest

from nemo_srlm.config.generation import JudgeSection, PromptsSection
from nemo_srlm.data import templates
from nemo_srlm.errors import ConfigError

PAPER = Path(__file__).resolve().parents[3] / "shared" / "paper.md"


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_judge_prompt_is_the_papers_word_for_word():
    if not PAPER.exists():
        pytest.skip("../shared/paper.md is absent")
    text = templates.load(JudgeSection().template, templates.JUDGE)
    block = PAPER.read_text(encoding="utf-8").split("### The LLM-as-a-Judge prompt\n```\n")[1].split("\n```")[0]
    assert text == block


def test_the_judge_prompt_does_not_change_by_accident():
    text = templates.load(JudgeSection().template, templates.JUDGE)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "8056a059fc882e50"
    assert text.endswith("based on the outlined criteria.")


def test_the_shipped_templates_hold_the_placeholders_that_they_need():
    templates.load("prompts/compare.txt", templates.COMPARE)
    shots = templates.load_shots(PromptsSection().template)
    assert "<NUMBER_HERE>" in shots.shot
    assert shots.tail.startswith("Task <NUMBER_HERE>")


def test_filling_is_one_pass_so_a_response_may_speak_of_placeholders():
    filled = templates.fill(
        "<INSTRUCTION_HERE> | <RESPONSE_HERE>", INSTRUCTION="say <RESPONSE_HERE>", RESPONSE=r"\1 <X_HERE>"
    )
    assert filled == r"say <RESPONSE_HERE> | \1 <X_HERE>"


@pytest.mark.parametrize(
    "text",
    [
        "<INSTRUCTION_HERE> only",
        "<INSTRUCTION_HERE> <RESPONSE_HERE> <RESPONSE_HERE>",
        "<INSTRUCTION_HERE> <RESPONSE_HERE> <ANSWER_HERE>",
        "",
    ],
)
def test_a_template_with_missing_repeated_or_unknown_placeholders_is_refused(tmp_path: Path, text: str):
    with pytest.raises(ConfigError):
        templates.load(write(tmp_path / "t.txt", text), templates.JUDGE)


def test_a_control_character_in_a_template_is_named_with_its_line(tmp_path: Path):
    path = write(tmp_path / "t.txt", "<INSTRUCTION_HERE>\n\t<RESPONSE_HERE>\x00\n")
    with pytest.raises(ConfigError, match=r"t\.txt:2: a control character \('\\x00'\)"):
        templates.load(path, templates.JUDGE)


@pytest.mark.parametrize("wrong", ["<response_here>", "<RESPONSE2_HERE>", "<RESPONSE_HERE >", "< RESPONSE_HERE>"])
def test_a_misspelt_placeholder_is_named_with_its_line(tmp_path: Path, wrong: str):
    (tmp_path / "t.txt").write_text(f"<INSTRUCTION_HERE>\n<RESPONSE_HERE>\n{wrong}\n")
    with pytest.raises(ConfigError, match=rf"t\.txt:3: '{wrong}'; expected placeholders such as <INSTRUCTION_HERE>"):
        templates.load(str(tmp_path / "t.txt"), templates.JUDGE)


def test_a_byte_order_mark_is_not_part_of_a_template(tmp_path: Path):
    assert templates.read_text(write(tmp_path / "t.txt", "\ufeffJudge.\n")) == "Judge."


def test_only_the_final_newline_is_not_part_of_a_template(tmp_path: Path):
    path = write(tmp_path / "t.txt", " a <INSTRUCTION_HERE>\n\n")
    assert templates.load(path, ("INSTRUCTION",)) == " a <INSTRUCTION_HERE>\n"


def test_a_missing_template_names_the_places_that_were_looked_at():
    with pytest.raises(ConfigError, match=r"configs/prompts/nowhere\.txt"):
        templates.find("prompts/nowhere.txt")


def test_two_templates_of_one_name_are_an_error_not_a_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "prompts").mkdir()
    write(tmp_path / "prompts" / "judge.txt", "other")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="two templates"):
        templates.find("prompts/judge.txt")


@pytest.mark.parametrize(
    "text",
    [
        "no shot part <DEMONSTRATION_HERE>",
        "<SHOT><DEMONSTRATION_HERE></SHOT><SHOT><DEMONSTRATION_HERE></SHOT>",
        "<SHOT>nothing</SHOT>",
        "<SHOT><DEMONSTRATION_HERE></SHOT><DEMONSTRATION_HERE>",
        "<TOPIC_HERE><SHOT><DEMONSTRATION_HERE></SHOT>",
    ],
)
def test_a_wrong_few_shot_template_is_refused(tmp_path: Path, text: str):
    with pytest.raises(ConfigError):
        templates.load_shots(write(tmp_path / "t.txt", text))
