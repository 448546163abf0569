"""A random Qwen2.5 of a million parameters as an HF directory, and the settings of a run that memorizes its few examples.

It has no begin token and a chat template of its own. Such a model never writes a score by itself, so the trees of a run
contain judgements made from their ranks.
"""

import json
from pathlib import Path
from typing import Any

from nemo_srlm.config.training import ModelSection
from tests.unit import tiny_llama
from tests.unit.chat_families import FAMILIES, IM, split

MODEL = ModelSection(
    family="qwen2", num_layers=2, hidden_size=128, ffn_hidden_size=256, num_attention_heads=4, num_query_groups=2,
    vocab_size=1536, max_length=2048,
)  # fmt: skip
SETTINGS = [
    "~model",  # the config is Llama 2 7B's: the imported model describes itself
    "parallel.processes=2", "parallel.tensor=2", "parallel.sequence=false", "precision.dtype=fp32", "precision.recompute=none",
    "precision.cross_entropy=unfused",
    "eft.source=external", "seed.num_eval_prompts=4", "eft.num_valid=4", "iterations=1", "candidates.shards=1", "judge.shards=1",
    *(f"sft.{setting}" for setting in (
        "lr=2e-3", "min_lr=1e-4", "dropout=0.0", "global_batch=4", "epochs=25", "max_length=2048", "save_every=0",
        "num_validation=2", "validate_every=50")),
    *(f"dpo.{setting}" for setting in (
        "lr=1e-4", "min_lr=1e-5", "dropout=0.0", "global_batch=4", "max_length=2048", "save_every=0", "num_validation=1")),
    "generate.dtype=float32", "generate.enforce_eager=true", "generate.max_num_seqs=16",
    "prompts.writer=policy", "prompts.num_prompts=6", "prompts.round_size=24", "prompts.max_tokens=24", "prompts.seed_shots=2",
    "candidates.max_tokens=24", "judge.max_tokens=40", "eval.max_tokens=24", "judge.min_valid=1",
]  # fmt: skip


def make(directory: Path, corpus: list[str]) -> None:
    """Writes the model, with a byte-level BPE tokenizer trained on the corpus."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tiny_llama.make(directory, MODEL, "fp32", scale=0.02)
    core = Tokenizer(models.BPE())
    core.normalizer, core.pre_tokenizer, core.decoder = normalizers.NFC(), split(""), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=MODEL.vocab_size - len(IM), initial_alphabet=alphabet, show_progress=False,
    ))  # fmt: skip
    core.add_special_tokens(list(IM))
    core.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(FAMILIES["qwen2_5"].settings))
    (directory / "chat_template.jinja").write_text(FAMILIES["qwen2_5"].template)


def texts(message: dict[str, Any]) -> list[str]:
    """The texts of a message and of all below it."""
    return [message["text"], *(text for reply in message["replies"] for text in texts(reply))]


def with_judgements(trees: list[dict[str, Any]], words: list[str]) -> list[dict[str, Any]]:
    """Adds judgements to two of three trees: each ranked reply gets a justification whose score follows its human rank.

    words: the justifications of rank 0, of rank 1, and of all below.
    """
    stack = [reply for i, tree in enumerate(trees) if i % 3 for reply in tree["prompt"]["replies"]]
    while stack:
        reply = stack.pop()
        stack += [below for turn in reply["replies"] for below in turn["replies"]]
        if (rank := reply.get("rank")) is not None:
            reply["judgement"] = f"{words[min(rank, 2)]}\n\nScore: {max(0, 5 - 2 * rank)}"
    return trees
