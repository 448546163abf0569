"""Transformer Engine's layers of every family, built without a GPU: keys and shapes of their weights are the conversion's.

    python -m tests.pipeline.te_families

Needs Transformer Engine, but no GPU: it is built on the CPU, and only a forward pass could not run there.
"""

import dataclasses
import os
from typing import Any
from unittest import mock

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
from megatron.core.models.gpt import GPTModel

from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection
from nemo_srlm.convert.families import table
from nemo_srlm.train.megatron import accelerator, setup
from nemo_srlm.train.megatron.model import layers_and_positions, transformer_config
from tests.unit import tiny_llama


def held(model: ModelSection) -> tuple[set[str], dict[str, tuple[int, ...]]]:
    """(classes of the attention's modules, sharded key -> global shape) of a model of Transformer Engine's layers."""
    parallel, precision = ParallelSection(processes=1), PrecisionSection(dtype="fp32")
    setup.initialize(model, parallel, precision)
    config = dataclasses.replace(transformer_config(model, parallel, precision), use_cpu_initialization=True)
    with mock.patch.object(accelerator, "has_transformer_engine", return_value=True):
        arguments = layers_and_positions(config, model, None)
    with mock.patch.object(torch.cuda, "is_available", return_value=True):  # Megatron asks before it takes the layers
        net = GPTModel(
            config=config, vocab_size=model.vocab_size, max_sequence_length=model.max_length,
            share_embeddings_and_output_weights=model.tie_embeddings, **arguments,
        )  # fmt: skip
    state: dict[str, Any] = net.sharded_state_dict()
    apply_factories(state)
    shapes = {s.key: tuple(s.global_shape) for s in nested_values(state) if isinstance(s, ShardedTensor)}
    attention = net.decoder.layers[0].self_attention
    setup.shutdown()
    return {type(module).__name__ for module in attention.children()}, shapes


def main() -> None:
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "0"), ("RANK", "0"), ("WORLD_SIZE", "1")):
        os.environ[name] = value
    for name, model in tiny_llama.SHAPES.items():
        classes, shapes = held(model)
        assert "TELayerNormColumnParallelLinear" in classes, classes
        layers = {t.key: (model.num_layers,) if t.layer is not None else () for t in table.megatron_tensors(model)}
        wanted = {t.key: (*layers[t.key], *t.shape) for t in table.megatron_tensors(model)}
        assert shapes == wanted, f"{name}: {sorted(shapes.items() ^ wanted.items())}"
        print(f"{name}: {len(shapes)} tensors")


if __name__ == "__main__":
    main()
