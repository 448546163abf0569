"""An import loads under every TP/PP/VPP layout with transformers' logits, each rank reading its own slices and no more
(convert_world.py asserts both); a save under any other layout exports exactly."""

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

from nemo_srlm.megatron.convert.exporting import export_hf
from nemo_srlm.megatron.convert.importing import import_hf
from nemo_srlm.megatron.convert.stored import PIECE_BYTES
from nemo_srlm.megatron.seal import latest
from tests.unit import tiny_llama
from tests.unit.convert_world import TOKENS

ROOT = Path(__file__).resolve().parents[2]
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip
# name -> model, [tensor, pipeline, virtual pipeline] to load under, and to save under, with optimizer state
CASES = {
    "mha": (tiny_llama.SHAPES["mha"], [1, 1, 1], [2, 2, 1], False),
    "gqa": (tiny_llama.SHAPES["gqa"], [2, 1, 1], [1, 2, 1], True),
    "tied": (replace(tiny_llama.SHAPES["tied"], vocab_size=251), [1, 2, 1], [2, 1, 1], False),
    "odd": (replace(tiny_llama.SHAPES["odd"], rope_scaling=LLAMA3), [2, 2, 1], [1, 1, 1], False),
    "virtual": (tiny_llama.SHAPES["gqa"], [1, 2, 2], [2, 2, 1], True),
    "tied-virtual": (tiny_llama.SHAPES["tied"], [2, 2, 2], [1, 2, 2], False),
}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case imported, loaded and saved by four processes. The name of a case is its directory."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import LlamaForCausalLM

    root = tmp_path_factory.mktemp("worlds")
    cases = []
    for number, (name, (model, load, save, optimizer)) in enumerate(CASES.items()):
        here = root / name
        tiny_llama.make(here / "hf", model, "bf16", shards=2, seed=number)
        # rows of an odd vocabulary belong to no shard alone: there the pieces' own edges must do
        import_hf(here / "hf", here / "imported", piece_bytes=4096 if model.vocab_size % 8 else PIECE_BYTES)
        net = LlamaForCausalLM.from_pretrained(here / "hf", dtype=torch.float32).eval()
        with torch.no_grad():
            np.save(here / "logits.npy", net(torch.tensor([TOKENS])).logits[0].numpy())
        cases.append({
            "name": name, "model": asdict(model), "load": load, "save": save, "optimizer": optimizer,
            "checkpoint": str(here / "imported"), "logits": str(here / "logits.npy"), "saved": str(here / "saved"),
        })  # fmt: skip
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
    command = [sys.executable, "-m", "tests.unit.convert_world", str(root / "cases.json")]
    logs = [(root / f"rank{rank}.log").open("w") for rank in range(4)]
    ranks = [
        subprocess.Popen(command, cwd=ROOT, env=environment | {"RANK": str(r)}, stdout=logs[r], stderr=logs[r])
        for r in range(4)
    ]
    codes = [rank.wait(timeout=300) for rank in ranks]
    assert codes == [0] * 4, "\n".join((root / f"rank{r}.log").read_text()[-3000:] for r in range(4))
    return root


@pytest.mark.parametrize("name", CASES)
def test_a_save_under_another_layout_exports_the_imported_bits(worlds: Path, name: str):
    here = worlds / name
    checkpoint = latest(here / "saved")
    assert checkpoint is not None
    done = export_hf(checkpoint, here / "exported", CASES[name][0], max_shard_bytes=100_000)
    assert done.padding_rows == -CASES[name][0].vocab_size % (128 * CASES[name][2][0])
    assert tiny_llama.equal_bits(tiny_llama.read(here / "exported"), tiny_llama.read(here / "hf"))
