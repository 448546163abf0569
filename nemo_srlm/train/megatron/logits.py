"""The logits of a checkpoint: the Megatron forward pass in fp32, in one process, of the whole model or its first layers.

convert/compare_logits.py compares them with those of transformers, to verify an export.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.models.gpt import GPTModel
from torch.distributed.checkpoint import metadata
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.planner import LoadPlan
from torch.distributed.checkpoint.state_dict_loader import load

from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection
from nemo_srlm.train.megatron import setup
from nemo_srlm.train.megatron.model import build_model


def megatron_logits(
    checkpoint: Path, model: ModelSection, num_layers: int, token_ids: list[int], loaded: Callable[[], None]
) -> torch.Tensor:
    """[tokens, padded vocabulary] fp32 logits of the first `num_layers` layers with embedding, final norm and head.

    Initialises Megatron in this process, as a world of one, and shuts it down. `loaded` is called between weights and forward
    pass.
    """
    parallel, precision = ParallelSection(nodes=1, processes=1), PrecisionSection(dtype="fp32")
    part = dataclasses.replace(model, num_layers=num_layers)
    setup.initialize(part, parallel, precision)
    (net,) = build_model(part, parallel, precision)
    net.eval()
    if num_layers == model.num_layers:
        _load_whole(net, checkpoint)
    else:
        _load_first_layers(net, checkpoint)
    loaded()
    device = next(net.parameters()).device
    tokens, positions = torch.tensor([token_ids], device=device), torch.arange(len(token_ids), device=device)
    with torch.no_grad():
        logits: torch.Tensor = net(tokens, positions[None], None)[0]
    setup.shutdown()
    return logits.cpu()


def _load_whole(net: GPTModel, checkpoint: Path) -> None:
    sharded = net.sharded_state_dict()
    # the checkpoint has no FP8 scales
    weights = {name: value for name, value in sharded.items() if not name.endswith("_extra_state")}
    missing, unexpected = net.load_state_dict(dist_checkpointing.load(weights, str(checkpoint)), strict=False)
    assert not unexpected, unexpected
    assert all(name.endswith("_extra_state") for name in missing), missing


class _FirstRows(DefaultLoadPlanner):
    """Loads the first rows of each tensor: it presents the asked sizes as the stored ones."""

    def create_local_plan(self) -> LoadPlan:
        assert self.metadata is not None
        for key, value in self.state_dict.items():
            stored = self.metadata.state_dict_metadata[key]
            assert isinstance(stored, metadata.TensorStorageMetadata)
            stored.size = value.size()
        return super().create_local_plan()


def _load_first_layers(net: GPTModel, checkpoint: Path) -> None:
    """Layers are stacked on the first axis of a tensor. Megatron's loader reads all of them; torch's can read a part."""
    reader = FileSystemReader(checkpoint)
    stored = reader.read_metadata().state_dict_metadata
    keys = {name: value.key for name, value in net.sharded_state_dict().items() if not name.endswith("_extra_state")}
    state: dict[str, Any] = {}
    for name, key in keys.items():
        entry = stored[key]
        assert isinstance(entry, metadata.TensorStorageMetadata)
        size = list(entry.size)
        state[key] = torch.empty([net.config.num_layers, *size[1:]] if ".layers." in name else size)
    load(state, storage_reader=reader, planner=_FirstRows())
    for name, parameter in net.named_parameters():
        value = state[keys[name]]
        if ".layers." in name:
            value = value[int(name.split(".layers.")[1].split(".")[0])]
        num_rows = min(len(value), len(parameter))  # either side may pad the vocabulary
        parameter.data.zero_()
        parameter.data[:num_rows] = value[:num_rows]
