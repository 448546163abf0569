"""Logits of transformers against those of the Megatron forward pass, in fp32, on real text.

    python -m nemo_srlm.convert.compare_logits transformers|megatron REQUEST.json RESULT.json

computes the logits of one of the two (children.py). Each has a process of its own: Megatron needs a process group and, on a
machine without a GPU, replaces CUDA calls, and neither may remain in a worker that later starts vLLM. Each model is loaded
by its library's own loader (`from_pretrained`, `dist_checkpointing.load`), not by the converter. Of a model that does not
fit the memory limit only the first layers are compared, with embedding, final norm and head.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_srlm.config.atomic import write_atomic
from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert.children import STEPS, received, steps_path
from nemo_srlm.core.imports import without
from nemo_srlm.core.process import die_with_named_parent

if TYPE_CHECKING:
    import torch

# Some of everything that tokenizers treat differently: prose, digits, names, quotes, code, other scripts, capitals.
TEXT = (
    "The lighthouse keeper wrote the day's figures in a narrow book: wind from the south-west at 17 knots, two ships, "
    'no fog. "You could read the weather off her handwriting," her brother used to say. In winter the letters leaned.\n\n'
    "To sum a list in Python, write `total = sum(x for x in values if x > 0)`; it costs O(n). A list of what to take:\n"
    "1. a map (1:50,000), 2. 3.5 litres of water, 3. bread, cheese & apples.\n"
    "Zürich liegt am See; Москва далеко; 東京は大きい。 WHAT A DAY! Isn't it? It's 9.99% cheaper, they'd said."
)


def num_layers_that_fit(model: ModelSection, memory_gb: float) -> int:
    """How many layers of both models fit `memory_gb` (10^9 bytes) of fp32 weights; at least one."""
    from nemo_srlm.train.estimate import layer_matrices  # the parent's alone: the processes need none of it

    ends = model.vocab_size * model.hidden_size * (1 if model.tie_embeddings else 2)
    return max(1, min(model.num_layers, int((memory_gb * 1e9 / 8 - ends) / layer_matrices(model))))


def prompt_ids(directory: Path, model: ModelSection) -> list[int]:
    """TEXT in tokens of the export, at most 256; arbitrary ids when the directory has no tokenizer."""
    limit = min(model.max_length, 256)
    if not (directory / "tokenizer.json").exists():
        return [(i * 7919 + 13) % model.vocab_size for i in range(min(limit, 64))]
    from tokenizers import Tokenizer

    return list(Tokenizer.from_file(str(directory / "tokenizer.json")).encode(TEXT).ids)[:limit]


def transformers_logits(request: Path, passed: Callable[[], None]) -> tuple["torch.Tensor", list[int]]:
    """([tokens, vocabulary] logits, greedy continuation of the first half of the tokens).

    The continuation is empty where fewer layers are asked for than the model has, or no new tokens.
    """
    import torch

    with without("sklearn"):  # two fifths of the import's time, for a kind of assisted generation
        from transformers import AutoConfig, AutoModelForCausalLM

    from nemo_srlm.data.tokenizer import Tokenizer

    passed()
    asked = received(request)
    directory, token_ids, new_tokens = Path(asked["hf"]), list(asked["prompt_ids"]), int(asked["new_tokens"])
    config = AutoConfig.from_pretrained(directory)
    whole = asked["layers"] == config.num_hidden_layers
    config.num_hidden_layers = asked["layers"]
    net: Any = AutoModelForCausalLM.from_pretrained(directory, config=config, dtype=torch.float32)
    net.eval()
    passed()
    with torch.no_grad():
        logits: torch.Tensor = net(torch.tensor([token_ids])).logits[0]
        greedy: list[int] = []
        if whole and new_tokens:
            start = token_ids[: max(1, len(token_ids) // 2)]
            out = net.generate(
                torch.tensor([start]), do_sample=False, max_new_tokens=new_tokens, pad_token_id=0,
                attention_mask=torch.ones(1, len(start), dtype=torch.long),
            )  # fmt: skip
            greedy = out[0, len(start) :].tolist()
            if greedy and greedy[-1] in Tokenizer(directory).end_ids:
                greedy.pop()  # vllm_check.py does not return the end token either
    return logits, greedy


def megatron_logits(request: Path, passed: Callable[[], None]) -> "torch.Tensor":
    """[tokens, vocabulary] logits."""
    from nemo_srlm.train.megatron.accelerator import import_megatron, require_kernels

    require_kernels()  # no GPU is seen here: only a Transformer Engine installed in part is refused
    import_megatron()
    from nemo_srlm.train.megatron import logits

    passed()
    asked = received(request)
    model = ModelSection(**asked["model"])
    found = logits.megatron_logits(Path(asked["checkpoint"]), model, asked["layers"], list(asked["prompt_ids"]), passed)
    return found[:, : model.vocab_size]


def run(library: str, request: Path, out: Path) -> dict[str, Any]:
    """Computes the logits of one library and writes them to `out` as .npy; returns its greedy tokens, if any."""
    import numpy as np

    steps, path = iter(range(1, len(STEPS))), steps_path(out)

    def passed() -> None:
        write_atomic(path, str(next(steps)))

    if library == "transformers":
        logits, greedy = transformers_logits(request, passed)
        np.save(out, logits.numpy())
        return {"greedy_ids": greedy}
    np.save(out, megatron_logits(request, passed).numpy())
    return {}


def compare(megatron: Path, transformers: Path) -> dict[str, Any]:
    """The card's numbers from the two .npy files of logits."""
    import numpy as np

    ours, theirs = np.load(megatron), np.load(transformers)
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
    die_with_named_parent()
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)  # one process, also when the parent is a rank of a larger world
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # fp32 on the CPU: on a GPU Transformer Engine multiplies fp32 in TF32
    library, request, result = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    found = run(library, request, result.with_suffix(".npy"))
    result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
