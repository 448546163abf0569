"""A run in Japanese with the shipped config, from ranked trees to the report, with the ranked replies of later turns.

Import, Megatron and vLLM are real; the model is small and memorizes its few examples, so what it writes is pieces of them.
tools/bench/languages.py runs Chinese and Thai in the same way.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from nemo_srlm.core import manifest
from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Judgement, PreferencePair, Prompt, SftExample
from nemo_srlm.data.near_copies import same_text
from tools.bench import languages

ROOT = Path(__file__).resolve().parents[2]
JAPANESE = re.compile("[\u3041-\u30ff\u4e00-\u9fff]")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("japanese")
    command = languages.prepare("japanese", root)
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return root / "japanese"


def test_a_question_typed_in_other_signs_counts_once(run: Path):
    counts = manifest.read(run / "iter0/seed").metrics
    assert (counts["trees"], counts["instruction_duplicate"]) == (31, 1)  # "...？" and "...?"


def test_the_judge_learns_from_later_turns_with_the_talk_before_them(run: Path):
    examples = list(read_records(run / "iter0/eft/eft_train.jsonl", SftExample))
    later = [e for e in examples if "\nUser: " in e.prompt]
    assert 0 < len(later) < len(examples)
    assert all("ユーザー：" in e.prompt and JAPANESE.search(e.response) and "Score: " in e.response for e in examples)


def test_written_prompts_are_japanese_and_what_was_left_out_has_a_reason(run: Path):
    written = list(read_records(run / "iter1/prompts/prompts.jsonl", Prompt))
    counts = manifest.read(run / "iter1/prompts").metrics
    assert len(written) == 6
    assert all(JAPANESE.search(p.text) and len(p.text) >= 8 for p in written)
    held_out = {same_text(p.text) for p in read_records(run / "iter0/held_out/eval_prompts.jsonl", Prompt)}
    assert not held_out & {same_text(p.text) for p in written}
    assert sum(counts["rejected"].values()) + len(written) <= counts["attempts"]


def test_the_run_ends_with_pairs_a_model_and_a_report(run: Path):
    judgements = list(read_records(run / "iter1/judge/judgements.jsonl", Judgement))
    assert any(score is not None for j in judgements for score in j.scores)
    pairs = list(read_records(run / "iter1/pairs/pairs.jsonl", PreferencePair))
    assert pairs
    assert all(JAPANESE.search(p.chosen) for p in pairs)
    assert manifest.read(run / "iter1/dpo").metrics["first"]["dpo_loss"] == pytest.approx(0.693147, abs=1e-3)
    models = json.loads((run / "report.json").read_text())["runs"][0]["models"]
    assert [m["name"] for m in models][-1] == "M2"
