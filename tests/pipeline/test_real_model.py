"""The loop on a real language model, SmolLM2-135M-Instruct, reduced to a few items: `make demo-real` in minutes.

Skipped where the model's package cannot be had (tools/smollm2.py, no network) or the GGUF reader is not installed.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_srlm.core import manifest
from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Candidate, Judgement, PreferencePair, Prompt, SftExample
from tools import smollm2

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "iterations=1", "eft.num_train=8", "eft.num_valid=3", "seed.num_eval_prompts=1", "parallel.processes=1",
    "sft.epochs=1", "sft.global_batch=4", "sft.save_every=0", "dpo.global_batch=2", "dpo.num_validation=0", "dpo.save_every=0",
    "prompts.num_prompts=3", "prompts.round_size=12", "prompts.max_tokens=24", "prompts.seed_shots=2",
    "candidates.num=2", "candidates.max_tokens=12", "eval.max_tokens=12", "judge.max_tokens=8",
    "export.verify=round_trip", "generate.threads=1",
]  # fmt: skip
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="gguf is not installed (tools/requirements)"),
]


@pytest.fixture(scope="module")
def model() -> Path:
    """The model directory in the checkout's cache, made once."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "smollm2.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode == 2 and "could not be downloaded" in done.stderr:
        pytest.skip(f"no model: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    return smollm2.DIRECTORY


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("real")
    command = [sys.executable, "-m", "nemo_srlm.cli", "run", "--config-name", "smollm2_135m", f"run.root={root}",
               f"import_hf.path={model}", *SETTINGS]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return root / "smollm2"


def test_a_model_directory_once_made_is_left_alone_and_a_changed_file_is_named(model: Path, tmp_path: Path):
    assert smollm2.is_complete(model)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in model.iterdir():
        (copy / path.name).symlink_to(path)
    (copy / "config.json").unlink()
    (copy / "config.json").write_text("{}")
    with pytest.raises(smollm2.CheckpointError, match=r"config\.json: changed or removed"):
        smollm2.is_complete(copy)


def test_every_judgement_has_a_score_and_pairs_come_of_real_english(run: Path):
    prompts = list(read_records(run / "iter1/prompts/prompts.jsonl", Prompt))
    assert len(prompts) == 3
    assert all(sum(c.isascii() and (c.isalpha() or c.isspace()) for c in p.text) > 0.8 * len(p.text) for p in prompts)
    responses = list(read_records(run / "iter1/candidates/candidates.jsonl", Candidate))
    assert len(responses) == 6
    judgements = list(read_records(run / "iter1/judge/judgements.jsonl", Judgement))
    assert all(0 <= j.scores[0] <= 5 for j in judgements)
    assert len(judgements) == 6
    assert list(read_records(run / "iter1/pairs/pairs.jsonl", PreferencePair))


def test_the_judge_is_trained_on_the_ranks_in_the_models_own_chat_format(run: Path):
    examples = list(read_records(run / "iter0/eft/eft_train.jsonl", SftExample))
    assert {e.response for e in examples} <= {f"Score: {k}" for k in range(6)}
    assert len({e.response for e in examples}) > 1
    losses = [json.loads(line) for line in (run / "iter0/sft/metrics.jsonl").read_text().splitlines()]
    assert losses[0]["loss"] < 8  # nats per token: what the model reads is text it knows, in its own format


def test_the_models_are_measured_beside_each_other_and_the_first_dpo_loss_is_ln_2(run: Path):
    assert manifest.read(run / "iter1/dpo").metrics["first"]["dpo_loss"] == pytest.approx(0.693147, abs=1e-2)
    for stage in ("iter0/eval_reward_base", "iter0/eval_reward", "iter1/eval_reward"):
        assert manifest.read(run / stage).metrics["pairwise_accuracy"] is not None
    assert (run / "report.html").exists()
