"""A run as with a real model, in Spanish: an HF model is imported, the seed data are real Spanish Open Assistant trees.

Import, Megatron under TP2, vLLM and the shipped Spanish config are real; only the model is small: a random Qwen2.5 of a
million parameters, without a begin token and with its own chat template, that memorizes its few examples. The trees contain
judgements made from their human ranks, because such a model never writes a score by itself.
"""

import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_srlm.config.compose import compose, load_resolved_config
from nemo_srlm.core import manifest
from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Judgement, PreferencePair, Prompt, SftExample
from tests.pipeline import imported_model

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT.parent / "shared" / "data" / "oasst_sample.trees.jsonl.gz"
SETTINGS = [*imported_model.SETTINGS, "prompts.min_words=1"]
JUDGEMENTS = ["Responde bien a la pregunta.", "Responde en parte.", "No ayuda mucho."]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SAMPLE.exists(), reason="../shared/data is absent"),
]


def spanish_trees() -> list[dict]:
    with gzip.open(SAMPLE, "rt", encoding="utf-8") as f:
        trees = [json.loads(line) for line in f]
    return [tree for tree in trees if tree["prompt"]["lang"] == "es" and tree["tree_state"] == "ready_for_export"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imported")
    trees = imported_model.with_judgements(spanish_trees(), JUDGEMENTS)
    with gzip.open(root / "es.trees.jsonl.gz", "wt", encoding="utf-8") as f:
        f.writelines(json.dumps(tree) + "\n" for tree in trees)
    cfg = compose("spanish", [])
    templates = [Path(ROOT / "configs" / name).read_text() for name in (cfg.judge.template, cfg.prompts.template)]
    corpus = [text for tree in trees for text in imported_model.texts(tree["prompt"])]
    imported_model.make(root / "m0", [*corpus, *templates * 20])
    command = [
        sys.executable, "-m", "nemo_srlm.cli", "run", "--config-name", "spanish", f"run.root={root}", "run.name=es",
        f"import_hf.path={root / 'm0'}", f"seed.files=[{root / 'es.trees.jsonl.gz'}]", *SETTINGS,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return root / "es"


def test_the_whole_loop_runs_from_an_imported_model_to_a_report(run: Path):
    assert (run / "report.html").exists()
    assert manifest.read(run / "iter1/dpo") is not None
    first = manifest.read(run / "iter1/dpo").metrics["first"]["dpo_loss"]
    assert first == pytest.approx(0.693147, abs=1e-3)


def test_the_run_has_taken_architecture_and_chat_from_the_directory(run: Path):
    cfg = load_resolved_config(run)
    assert replace(cfg.model, init_std=imported_model.MODEL.init_std) == imported_model.MODEL
    assert cfg.chat.format == "model"
    kept, exported = (run / place for place in ("iter0/import_hf/tokenizer", "iter1/export/hf"))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (kept / name).read_bytes() == (exported / name).read_bytes() == (run.parent / "m0" / name).read_bytes()


def test_what_is_held_out_is_not_trained_on_and_its_loss_is_logged(run: Path):
    sft, dpo = (manifest.read(run / name).metrics for name in ("iter0/sft", "iter1/dpo"))
    assert sft["data"]["used"]["of_these_validation"] == 2
    assert dpo["data"]["used"]["of_these_validation"] == 1
    assert 0 < dpo["validation"]["dpo_loss"] < 2
    lines = [json.loads(line) for line in (run / "iter0/sft/metrics.jsonl").read_text().splitlines()]
    looks = [line["step"] for line in lines if "validation" in line]
    assert looks == [*range(50, sft["steps"], 50), sft["steps"]]
    assert sft["validation"]["loss"] > sft["last"]["loss"]  # it memorizes the training examples, and nothing else


def test_the_seed_data_are_the_real_trees(run: Path):
    real = {tree["prompt"]["text"].strip() for tree in spanish_trees()}
    ift = list(read_records(run / "iter0/seed/ift.jsonl", SftExample))
    assert ift
    assert {e.prompt for e in ift} <= real
    eft = list(read_records(run / "iter0/eft/eft_train.jsonl", SftExample))
    assert eft
    assert all("Usuario: " in e.prompt and "Score: " in e.response for e in eft)


def test_judgements_parse_and_become_pairs(run: Path):
    judgements = list(read_records(run / "iter1/judge/judgements.jsonl", Judgement))
    assert any(score is not None for j in judgements for score in j.scores)
    prompts = {p.text for p in read_records(run / "iter1/prompts/prompts.jsonl", Prompt)}
    pairs = list(read_records(run / "iter1/pairs/pairs.jsonl", PreferencePair))
    assert pairs
    assert {p.prompt for p in pairs} <= prompts
    assert all(p.chosen_score > p.rejected_score for p in pairs)
