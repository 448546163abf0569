"""Tiny random models of every family as HF directories, written by the safetensors library (not by the code under test)."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from nemo_srlm.config.training import ModelSection
from nemo_srlm.convert import hf_config
from nemo_srlm.convert.families import table

SIZES = ModelSection(
    num_layers=4, hidden_size=64, ffn_hidden_size=96, num_attention_heads=4, num_query_groups=4, vocab_size=256,
    max_length=128,
)  # fmt: skip
SHAPES = {
    "mha": SIZES,
    "gqa": replace(SIZES, num_query_groups=2),
    "tied": replace(SIZES, num_query_groups=2, tie_embeddings=True),
    "head_dim": replace(SIZES, num_query_groups=2, head_dim=24),  # four heads of 24 in a hidden size of 64
    "odd": replace(SIZES, vocab_size=251, ffn_hidden_size=88, rope_theta=5000.0, norm_epsilon=1e-6),
    "mistral": replace(SIZES, family="mistral", num_query_groups=2, head_dim=24, ffn_hidden_size=88),
    "qwen2": replace(SIZES, family="qwen2", num_query_groups=2, vocab_size=251, norm_epsilon=1e-6),
    "qwen2_tied": replace(SIZES, family="qwen2", num_attention_heads=2, num_query_groups=2, tie_embeddings=True),
    "qwen3": replace(SIZES, family="qwen3", num_query_groups=2, head_dim=24, vocab_size=251),
    "qwen3_tied": replace(SIZES, family="qwen3", num_query_groups=2, head_dim=24, tie_embeddings=True),
}
TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def weights(model: ModelSection, dtype: str = "bf16", seed: int = 0, scale: float = 0.15) -> dict[str, torch.Tensor]:
    """Random weights by HF name: norms near 1; the default scale makes logits differ clearly (0.02 suits training)."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for tensor in table.hf_tensors(model):
        value = torch.randn(tensor.shape, generator=generator)
        made[tensor.name] = (1 + 0.1 * value if "norm" in tensor.name else scale * value).to(TORCH[dtype])
    return made


def make(
    directory: Path, model: ModelSection, dtype: str = "bf16", shards: int = 1, seed: int = 0, scale: float = 0.15
) -> dict[str, torch.Tensor]:
    """Writes config.json and the weights, in `shards` files, with an index if there are several."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(hf_config.render(model, dtype, {})))
    made = weights(model, dtype, seed, scale)
    if shards == 1:
        save_file(made, directory / "model.safetensors", {"format": "pt"})
        return made
    names, weight_map = sorted(made), {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file({name: made[name] for name in names[i::shards]}, directory / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names[i::shards], file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return made


def make_tokenizer(directory: Path, vocab_size: int = 60) -> None:
    """A byte-level BPE tokenizer with <s> and </s>, as HF files."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    directory.mkdir(parents=True, exist_ok=True)
    pieces = ["<s>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())][:vocab_size]
    core = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<s>", "</s>", "<unk>"])
    core.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def read(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor of an HF directory, by the safetensors library."""
    from safetensors.torch import load_file

    return {k: v for path in sorted(directory.glob("*.safetensors")) for k, v in load_file(path).items()}


def equal_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)
