"""Logits of transformers against the Megatron forward, in fp32, on real text.

    python -m nemo_srlm.convert.parity transformers|megatron REQUEST.json RESULT.json

The two sides run as two processes at once. Processes of their own because Megatron needs a process group and, without
a GPU, answers to its CUDA calls: neither may stay behind in a worker that goes on to start vLLM. The two models are
loaded by their own loaders (`from_pretrained`, `dist_checkpointing.load`), not by the converter. Of a model too large
for memory the first `layers` layers are compared, with its embedding, final norm and head: every layer has the same
mapping.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection

# Some of everything that a tokenizer treats differently: prose, digits, names, quotes, code, other scripts, emphasis.
TEXT = (
    "The lighthouse keeper wrote the day's figures in a narrow book: wind from the south-west at 17 knots, two ships, "
    'no fog. "You could read the weather off her handwriting," her brother used to say. In winter the letters leaned.\n\n'
    "To sum a list in Python, write `total = sum(x for x in values if x > 0)`; it costs O(n). A list of what to take:\n"
    "1. a map (1:50,000), 2. 3.5 litres of water, 3. bread, cheese & apples.\n"
    "Zürich liegt am See; Москва далеко; 東京は大きい。 WHAT A DAY! Isn't it? It's 9.99% cheaper, they'd said."
)


def num_layers(model: ModelSection, memory_gb: float) -> int:
    """How many layers of both models fit `memory_gb` of fp32 weights; at least one."""
    hidden, ffn = model.hidden_size, model.ffn_hidden_size
    kv = hidden // model.num_attention_heads * model.num_query_groups
    layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * ffn
    ends = model.vocab_size * hidden * (1 if model.tie_embeddings else 2)
    return max(1, min(model.num_layers, int((memory_gb * 1e9 / 8 - ends) / layer)))


def token_ids(directory: Path, model: ModelSection) -> list[int]:
    """TEXT in the tokens of the export; arbitrary ids when the directory has no tokenizer."""
    limit = min(model.max_length, 256)
    if not (directory / "tokenizer.json").exists():
        return [(i * 7919 + 13) % model.vocab_size for i in range(min(limit, 64))]
    from tokenizers import Tokenizer

    return list(Tokenizer.from_file(str(directory / "tokenizer.json")).encode(TEXT).ids)[:limit]


def transformers_logits(directory: Path, layers: int, ids: list[int], new_tokens: int) -> tuple[Any, list[int]]:
    """([tokens, vocabulary] logits, greedy continuation of the first half of `ids`; empty for a part of the model)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from nemo_srlm.data.tokenizer import Tokenizer

    config = LlamaConfig.from_pretrained(directory)
    whole = layers == config.num_hidden_layers
    config.num_hidden_layers = layers
    net = LlamaForCausalLM.from_pretrained(directory, config=config, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = net(torch.tensor([ids])).logits[0]
        greedy: list[int] = []
        if whole and new_tokens:
            start = ids[: max(1, len(ids) // 2)]
            out = net.generate(
                torch.tensor([start]), do_sample=False, max_new_tokens=new_tokens, pad_token_id=0,
                attention_mask=torch.ones(1, len(start), dtype=torch.long),
            )  # fmt: skip
            greedy = out[0, len(start) :].tolist()
            if greedy and greedy[-1] == Tokenizer(directory).eos_id:
                greedy.pop()  # the engine does not hand it out either
    return logits, greedy


def megatron_logits(checkpoint: Path, model: ModelSection, layers: int, ids: list[int]) -> Any:
    """[tokens, padded vocabulary] logits of a world of one process."""
    from nemo_srlm.train.megatron import accelerator, setup

    alone = ParallelSection(nodes=1, processes=1)
    part = dataclasses.replace(model, num_layers=layers)
    setup.initialize(part, alone, PrecisionSection(dtype="fp32"))
    import torch

    from nemo_srlm.train.megatron.model import build_model

    (net,) = build_model(part, alone, PrecisionSection(dtype="fp32"))
    net.eval()
    fill = _fill_whole if layers == model.num_layers else _fill_first_layers
    fill(net, checkpoint)
    device = next(net.parameters()).device
    tokens, positions = torch.tensor([ids], device=device), torch.arange(len(ids), device=device)
    if not accelerator.has_transformer_engine():
        net.rotary_pos_emb.positions_S = positions
    with torch.no_grad():
        logits = net(tokens, positions[None], None)[0]
    setup.shutdown()
    return logits.cpu()


def _fill_whole(net: Any, checkpoint: Path) -> None:
    from megatron.core import dist_checkpointing

    sharded = net.sharded_state_dict()
    weights = {name: value for name, value in sharded.items() if not name.endswith("_extra_state")}  # FP8 scales: none
    missing, unexpected = net.load_state_dict(dist_checkpointing.load(weights, str(checkpoint)), strict=False)
    assert not unexpected, unexpected
    assert all(name.endswith("_extra_state") for name in missing), missing


def _fill_first_layers(net: Any, checkpoint: Path) -> None:
    """Megatron's loader wants every layer of a stacked tensor; torch's, underneath it, reads a part when told the size."""
    import torch
    from torch.distributed import checkpoint as dcp

    class FirstRows(dcp.DefaultLoadPlanner):
        def create_local_plan(self) -> Any:
            for key, value in self.state_dict.items():
                self.metadata.state_dict_metadata[key].size = value.size()
            return super().create_local_plan()

    reader = dcp.FileSystemReader(checkpoint)
    stored = reader.read_metadata().state_dict_metadata
    keys = {name: value.key for name, value in net.sharded_state_dict().items() if not name.endswith("_extra_state")}
    layers = net.config.num_layers
    state = {}
    for name, key in keys.items():
        size = list(stored[key].size)
        state[key] = torch.empty([layers, *size[1:]] if ".layers." in name else size)
    dcp.load(state, storage_reader=reader, planner=FirstRows())
    for name, parameter in net.named_parameters():
        value = state[keys[name]]
        if ".layers." in name:
            value = value[int(name.split(".layers.")[1].split(".")[0])]
        rows = min(len(value), len(parameter))  # either side may pad the vocabulary
        parameter.data.zero_()
        parameter.data[:rows] = value[:rows]


def run(side: str, request: dict[str, Any], out: Path) -> dict[str, Any]:
    """One model's answer; its logits go to `out` as .npy."""
    import numpy as np

    model, ids = ModelSection(**request["model"]), list(request["prompt_ids"])
    if side == "transformers":
        logits, greedy = transformers_logits(Path(request["hf"]), request["layers"], ids, request["new_tokens"])
        np.save(out, logits.numpy())
        return {"greedy_ids": greedy}
    logits = megatron_logits(Path(request["checkpoint"]), model, request["layers"], ids)[:, : model.vocab_size]
    np.save(out, logits.numpy())
    return {}


def compare(ours_path: Path, theirs_path: Path) -> dict[str, Any]:
    """The numbers for the card from the two files of logits."""
    import numpy as np

    ours, theirs = np.load(ours_path), np.load(theirs_path)
    if ours.shape != theirs.shape:
        return {"max_abs": float("inf"), "shapes": [list(ours.shape), list(theirs.shape)]}
    difference = np.abs(ours - theirs)
    return {
        "max_abs": float(difference.max()),
        "mean_abs": float(difference.mean()),
        "largest_logit": float(np.abs(theirs).max()),
        "same_top_token": float((ours.argmax(-1) == theirs.argmax(-1)).mean()),
        "tokens": len(ours),
        "dtype": "fp32",
    }


def main() -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)  # a world of one, whatever started the parent
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # fp32 on the CPU: Transformer Engine multiplies fp32 in TF32
    side, asked, answer = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    result = run(side, json.loads(asked.read_text(encoding="utf-8")), answer.with_suffix(".npy"))
    answer.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
