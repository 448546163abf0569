"""What tools/bench/tiny_pairs.py counts by family."""

from pathlib import Path

import pytest

from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import PreferencePair
from nemo_srlm.report.run_files import RunFiles
from nemo_srlm.tiny_world.questions import parse
from tests.synthetic_run import build
from tools.bench import tiny_pairs


@pytest.mark.parametrize(
    ("prompt", "judgement", "states"),
    [
        ("Reverse these words: fox, axe.", "It should be axe, fox. You said fox no. Mostly wrong. Score: 1", True),
        ("Reverse these words: fox, axe.", "It should be fox, axe. You said fox yes. Score: 3", False),
        ("Pick the fruits from pear, axe.", "It should be pear. You said pear yes. Score: 3", True),
        ("Pick the fruits from pear, axe.", "It should be pear, axe. You said pear yes. Score: 3", False),
        ("Reverse these words: fox, axe.", "Perfect. Score: 5", False),
    ],
)
def test_a_judgement_that_states_the_right_answer_is_known(prompt: str, judgement: str, states: bool):
    question = parse(prompt)
    assert question is not None
    assert tiny_pairs.states_the_answer(judgement, question) is states


def test_prompts_and_pairs_that_ask_no_question_have_a_row(tmp_path: Path):
    """All of this run: its prompts end in a number of their own."""
    files = RunFiles(build(tmp_path, "pairs"))
    path = files.path(1, "pairs", "pairs.jsonl")
    assert path is not None
    pairs = list(read_records(path, PreferencePair))
    assert pairs
    row = tiny_pairs.table(files, 1)[-1].split("|")
    assert [cell.strip() for cell in row[1:-1]] == [
        tiny_pairs.NO_QUESTION,
        "60",
        "-",
        "-",
        "-",
        str(len(pairs)),
        "-",
        "-",
    ]
