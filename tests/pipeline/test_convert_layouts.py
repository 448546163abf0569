"""An import loads under every TP/PP/VPP layout with transformers' logits, and each rank reads only its own slices
(convert_world.py asserts both); a checkpoint saved under any other layout is exported exactly."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert.export_hf import export_hf
from nemo_srlm.convert.import_hf import SLICE_BYTES, import_hf
from nemo_srlm.train.checkpoint_dir import latest
from tests.pipeline.convert_world import TOKENS
from tests.unit import tiny_llama

ROOT = Path(__file__).resolve().parents[2]
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip
MODELS = {
    "mha": tiny_llama.SHAPES["mha"],
    "gqa": tiny_llama.SHAPES["gqa"],
    "tied": replace(tiny_llama.SHAPES["tied"], vocab_size=251),
    "head_dim": tiny_llama.SHAPES["head_dim"],
    "odd": replace(tiny_llama.SHAPES["odd"], rope_scaling=LLAMA3, vocab_multiple=128),
    **{name: tiny_llama.SHAPES[name] for name in ("mistral", "qwen2", "qwen3_tied")},
}
LAYOUTS = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1)]  # tensor, pipeline, virtual pipeline
# (model, layout for loading, another layout for saving): every Llama under every layout, two with virtual stages, one with
# an explicit head size; every other family under layouts that split its own tensors
CASES = [
    (name, load, LAYOUTS[(i + 1 + number % 3) % 4])
    for number, name in enumerate(("mha", "gqa", "tied", "odd"))
    for i, load in enumerate(LAYOUTS)
] + [
    ("gqa", (1, 2, 2), (2, 2, 1)), ("tied", (2, 2, 2), (1, 2, 2)), ("head_dim", (2, 2, 1), (2, 1, 1)),
    ("mistral", (2, 2, 1), (1, 1, 1)),
    *((name, load, save) for name in ("qwen2", "qwen3_tied")
      for load, save in (((1, 1, 1), (2, 1, 1)), ((2, 1, 1), (1, 2, 1)), ((1, 2, 1), (2, 2, 1)))),
]  # fmt: skip
WITH_OPTIMIZER = ("gqa",)  # saved as in training, with the optimizer's state


def saved(root: Path, name: str, load: tuple[int, ...]) -> Path:
    return root / name / f"saved-{load}"


def slice_bytes(model: ModelSection) -> int:
    return 4096 if model.vocab_size % 8 else SLICE_BYTES


def at_the_edges(model: ModelSection) -> int:
    """Values that a rank may read without keeping: for odd vocabularies, shards of embedding and head end within a slice."""
    return 2 * 2 * slice_bytes(model) // 4 if model.vocab_size % 8 else 0


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Imports every model; four processes load and save it in every case."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModelForCausalLM

    root = tmp_path_factory.mktemp("worlds")
    for number, (name, model) in enumerate(MODELS.items()):
        here = root / name
        tiny_llama.make(here / "hf", model, "bf16", shards=2, seed=number)
        import_hf(here / "hf", here / "imported", slice_bytes=slice_bytes(model))
        net = AutoModelForCausalLM.from_pretrained(here / "hf", dtype=torch.float32).eval()
        with torch.no_grad():
            np.save(here / "logits.npy", net(torch.tensor([TOKENS])).logits[0].numpy())
    cases = [
        {
            "name": name, "model": asdict(MODELS[name]), "load": load, "save": save, "optimizer": name in WITH_OPTIMIZER,
            "checkpoint": str(root / name / "imported"), "logits": str(root / name / "logits.npy"),
            "saved": str(saved(root, name, load)), "too_much": at_the_edges(MODELS[name]),
        }
        for name, load, save in CASES
    ]  # fmt: skip
    (root / "cases.json").write_text(json.dumps(cases))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = os.environ | {
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.pipeline.convert_world", str(root / "cases.json")]
    logs = [(root / f"rank{rank}.log").open("w") for rank in range(4)]
    ranks = [
        subprocess.Popen(command, cwd=ROOT, env=environment | {"RANK": str(r)}, stdout=logs[r], stderr=logs[r])
        for r in range(4)
    ]
    try:
        codes = [rank.wait(timeout=1200) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert codes == [0] * 4, "\n".join((root / f"rank{r}.log").read_text()[-3000:] for r in range(4))
    return root


@pytest.mark.parametrize(("name", "load", "save"), CASES)
def test_a_save_under_another_layout_exports_the_imported_bits(worlds: Path, tmp_path: Path, name, load, save):
    checkpoint = latest(saved(worlds, name, load))
    assert checkpoint is not None
    done = export_hf(checkpoint, tmp_path / "exported", MODELS[name], max_shard_bytes=100_000)
    assert done.padding_rows == -MODELS[name].vocab_size % (MODELS[name].vocab_multiple * save[0])
    assert tiny_llama.equal_bits(tiny_llama.read(tmp_path / "exported"), tiny_llama.read(worlds / name / "hf"))
