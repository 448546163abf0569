"""A rank of test_convert_layouts.py: loads an import under one layout, computes logits, saves under another layout.

    RANK=0 WORLD_SIZE=4 MASTER_ADDR=... MASTER_PORT=... python -m tests.pipeline.convert_world CASES.json

All layouts run one after another in the same four processes, because starting them takes most of the time. While
megatron-core loads, the chunks that it reads from the files are compared with the parts of them that it keeps.
"""

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import filesystem

from nemo_srlm.config.training import ModelSection, ParallelSection, PrecisionSection, SftSection
from nemo_srlm.train.megatron import checkpoint, setup

TOKENS = [(i * 37 + 5) % 250 for i in range(24)]


def parallel(layout: list[int]) -> ParallelSection:
    tensor, pipeline, virtual = layout
    return ParallelSection(
        nodes=1, processes=dist.get_world_size() if dist.is_initialized() else 4, tensor=tensor, pipeline=pipeline,
        virtual_pipeline=virtual,
    )  # fmt: skip


def loaded(case: dict[str, Any], layout: list[int], dtype: str) -> list[Any]:
    model, precision = ModelSection(**case["model"]), PrecisionSection(dtype=dtype)
    setup.initialize(model, parallel(layout), precision)
    from megatron.core import parallel_state

    from nemo_srlm.train.megatron.model import build_model

    chunks = build_model(model, parallel(layout), precision)
    for chunk in chunks:
        for parameter in chunk.parameters():
            parameter.data.fill_(float("nan"))  # a value that the load does not write stays NaN
    with counted() as (read, kept):
        checkpoint.load_model(Path(case["checkpoint"]), chunks)
    counts = torch.tensor([sum(read), sum(kept)])
    dist.all_reduce(
        counts, group=parallel_state.get_data_parallel_group()
    )  # replicas read each value once between them
    num_read, num_kept = counts.tolist()
    own = sum(parameter.numel() for chunk in chunks for parameter in chunk.parameters())
    padding = own - num_kept  # padding rows of the vocabulary, which no file contains
    assert 0 <= padding <= 2 * 128 * model.hidden_size, (case["name"], layout, own, num_kept)
    in_vain = num_read - num_kept
    assert 0 <= in_vain <= case["too_much"], f"{case['name']} under {layout}: {in_vain} of {num_read} values in vain"
    return chunks


@contextlib.contextmanager
def counted() -> Iterator[tuple[list[int], list[int]]]:
    """Per chunk: (number of values that torch's loader reads, number of them that it keeps)."""
    read: list[int] = []
    kept: list[int] = []
    real = filesystem.narrow_tensor_by_index

    def narrow(tensor: torch.Tensor, offsets: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
        read.append(tensor.numel())
        kept.append(math.prod(sizes))
        return real(tensor, offsets, sizes)

    filesystem.narrow_tensor_by_index = narrow
    try:
        yield read, kept
    finally:
        filesystem.narrow_tensor_by_index = real


@torch.no_grad()
def logits(chunks: list[Any], layout: list[int]) -> torch.Tensor | None:
    """Logits [tokens, padded vocabulary] on the last pipeline stage; hidden states are passed on explicitly."""
    from megatron.core import parallel_state

    _, pipeline, virtual = layout
    tokens, positions = torch.tensor([TOKENS]), torch.arange(len(TOKENS))
    stage = parallel_state.get_pipeline_model_parallel_rank()
    ranks = torch.distributed.get_process_group_ranks(parallel_state.get_pipeline_model_parallel_group())
    hidden = out = None
    for number in range(virtual * pipeline):
        if number % pipeline != stage:
            continue
        chunk = chunks[number // pipeline].eval()
        if number:
            if pipeline > 1:
                hidden = torch.empty(len(TOKENS), 1, chunk.config.hidden_size)
                dist.recv(hidden, ranks[(number - 1) % pipeline])
            chunk.set_input_tensor(hidden)
        out = hidden = chunk(tokens, positions[None], None)
        if number < virtual * pipeline - 1 and pipeline > 1:
            dist.send(hidden.contiguous(), ranks[(number + 1) % pipeline])
    if stage != pipeline - 1:
        return None
    group = parallel_state.get_tensor_model_parallel_group()
    parts = [torch.empty_like(out) for _ in range(group.size())]
    dist.all_gather(parts, out.contiguous(), group=group)
    return torch.cat(parts, dim=-1)[0]


def main() -> None:
    for case in json.loads(Path(sys.argv[1]).read_text()):
        found = logits(loaded(case, case["load"], "fp32"), case["load"])
        if found is not None:
            reference = torch.from_numpy(np.load(case["logits"]))
            difference = float((found[:, : reference.shape[1]] - reference).abs().max())
            assert difference <= 1e-4, f"{case['name']} under {case['load']}: logits differ by {difference}"
            padded = found[:, reference.shape[1] :]
            assert (padded == 0).all(), f"{case['name']}: rows of vocabulary padding are not zero"
        chunks = loaded(case, case["save"], "bf16")
        if case["optimizer"]:
            save_training(case, chunks)
        else:
            checkpoint.save_model(Path(case["saved"]), chunks, None)
        dist.barrier()
    setup.shutdown()


def save_training(case: dict[str, Any], chunks: list[Any]) -> None:
    """Saves a training checkpoint: weights and the state of the distributed optimizer."""
    from nemo_srlm.train.megatron import optim, optimizer_state

    layout, precision = parallel(case["save"]), PrecisionSection(dtype="bf16")
    wrapped = optim.wrap(chunks, layout, precision)
    optimizer = optim.build_optimizer(wrapped, SftSection(), layout, precision)
    optimizer_state.allocate(optimizer)
    checkpoint.save_training(Path(case["saved"]), 7, wrapped, optimizer, keep_last=1)


if __name__ == "__main__":
    main()
