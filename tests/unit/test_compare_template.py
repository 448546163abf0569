"""The judge's input of a comparison: by this project's template, or exactly as alpaca_eval's annotators ask."""

import json
from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose
from nemo_srlm.errors import ConfigError
from nemo_srlm.evaluate import compare_template
from nemo_srlm.evaluate.compare_template import parse_ranking
from nemo_srlm.stages import eval_h2h

CHATML = """<|im_start|>system
You rank models.
<|im_end|>
<|im_start|>user
Prompt: {instruction}
{"model": "model_1", "answer": \"""{output_1}\"""}
{"model": "model_2", "answer": \"""{output_2}\"""}
Answer with a list.
<|im_end|>
"""
RANKED = "[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]"


def chatml(tmp_path: Path, text: str = CHATML) -> str:
    (tmp_path / "theirs.txt").write_text(text)
    return str(tmp_path / "theirs.txt")


def test_a_template_of_the_package_becomes_its_messages(tmp_path: Path):
    made = compare_template.load(chatml(tmp_path))
    system, user = made.messages("Name {output_1}.", " a\n", "{b}")
    assert system == "You rank models."
    assert user.startswith('Prompt: Name {output_1}.\n{"model": "model_1", "answer": """ a\n"""}\n')
    assert user.endswith("Answer with a list.")
    assert made.verdict(RANKED, ()) == "A"


def test_the_input_is_the_packages_own_for_its_own_prompt():
    utils = pytest.importorskip("alpaca_eval.utils", reason="alpaca_eval is not installed")
    import pandas as pd

    path = Path(utils.__file__).parent / "evaluators_configs" / "alpaca_eval_gpt4" / "alpaca_eval.txt"
    made = compare_template.load(str(path))
    rows = [
        ("Name a bear.", "Bruno", "Baloo"), (' "quoted" {x}\n', "line\n\n  two\t", "ü 漢字 \\n"), ("", "", "   "),
        ("{instruction_1} {", "}", "<response>Score: 5</response>"),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["instruction", "output_1", "output_2"])
    prompts, _ = utils.make_prompts(table, path.read_text())
    for row, prompt in zip(rows, prompts, strict=True):
        theirs = utils.prompt_to_chatml(prompt.strip())
        assert [(m["role"], m["content"]) for m in theirs] == list(
            zip(("system", "user"), made.messages(*row), strict=True)
        )


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (RANKED, "A"),
        (RANKED.replace("1}", "3}"), ""),
        ("[{'model': 'model_2', 'rank': 1}, {'model': 'model_1', 'rank': 2}]", "B"),
        (json.dumps([{"model": "model_1", "rank": 2}]), "B"),
        ("[{'model': 'm', 'rank': 1}]", ""),
        ("[{'model': 'model_1'}]", ""),
        ("[{'model': 'model_1', 'rank': [1]}]", ""),
        ("model_1 is better", ""),
        ("Better: A", ""),
        ("", ""),
        ("[" * 5000, ""),
        ("3", ""),
    ],
)
def test_the_ranks_are_read_as_the_package_reads_them(text: str, verdict: str):
    assert parse_ranking(text) == verdict


@pytest.mark.parametrize(
    "text",
    [
        "{instruction} {output_1} {output_2}",
        CHATML.replace("{output_1}", "{output_1} {output_1}"),
        CHATML.replace("<|im_start|>system", "<|im_start|>assistant"),
    ],
)
def test_another_form_of_the_package_is_refused(tmp_path: Path, text: str):
    with pytest.raises(ConfigError, match=r"alpaca_eval's placeholders.*alpaca_eval_gpt4"):
        compare_template.load(chatml(tmp_path, text))
    (tmp_path / "ours.txt").write_text("<INSTRUCTION_HERE> {instruction}")
    with pytest.raises(ConfigError, match="each of"):
        compare_template.load(str(tmp_path / "ours.txt"))


def test_the_file_is_what_the_stage_is_identified_by(tmp_path: Path):
    cfg = compose("llama2_7b", [f"eval.h2h_template={chatml(tmp_path)}"])
    assert eval_h2h.STAGE.identity(cfg, 1)["template"] == CHATML.strip()
    default = compose("llama2_7b", [])
    assert eval_h2h.STAGE.identity(default, 1)["template"].endswith('either "Better: A" or "Better: B".')
