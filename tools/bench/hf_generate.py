"""transformers' generate on prepared requests, as fast as it can be made: in padded batches, and with continuous batching."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaForCausalLM

from nemo_srlm.generate.requests import Request

PAD = 2  # a token of bench/generate.make_model and of the tiny world's tokenizer that no prompt has
BATCHES = (16, 64, 128)
ROWS = (32, 128)  # sequences that continuous batching decodes at a time
PAGE = 64  # positions of a cache page: its default of 256 is longer than these texts


def settings_of(request: Request, eos_id: int) -> GenerationConfig:
    return GenerationConfig(
        do_sample=True, temperature=request.temperature, top_p=request.top_p, top_k=0, max_new_tokens=request.max_tokens,
        eos_token_id=eos_id, pad_token_id=PAD,
    )  # fmt: skip


def rows_of(requests: Sequence[Request]) -> list[Request]:
    """One per draw, by length: neighbours need little padding and share a prompt."""
    return sorted((r for request in requests for r in [request] * request.n), key=lambda r: len(r.prompt_ids))


def batched(model: LlamaForCausalLM, requests: Sequence[Request], eos_id: int, batch: int) -> int:
    """Left-padded batches. Returns the number of generated tokens."""
    tokens, rows = 0, rows_of(requests)
    for start in range(0, len(rows), batch):
        chunk = rows[start : start + batch]
        longest = max(len(r.prompt_ids) for r in chunk)
        ids = torch.full((len(chunk), longest), PAD)
        mask = torch.zeros_like(ids)
        for i, r in enumerate(chunk):
            ids[i, longest - len(r.prompt_ids) :] = torch.tensor(r.prompt_ids)
            mask[i, longest - len(r.prompt_ids) :] = 1
        with torch.inference_mode():
            made = model.generate(ids, attention_mask=mask, generation_config=settings_of(chunk[0], eos_id))[
                :, longest:
            ]
        ended = (made == eos_id).int()
        tokens += int(torch.where(ended.any(1), ended.argmax(1) + 1, made.shape[1]).sum())
    return tokens


def continuous(model: LlamaForCausalLM, requests: Sequence[Request], eos_id: int, rows: int) -> int:
    """transformers' continuous batching with a paged cache. Returns the number of generated tokens."""
    every = rows_of(requests)
    longest = max(len(r.prompt_ids) for r in every) + every[0].max_tokens
    found = model.generate_batch(
        [list(r.prompt_ids) for r in every], settings_of(every[0], eos_id),
        ContinuousBatchingConfig(
            page_size=PAGE, num_blocks=rows * -(-longest // PAGE), max_batch_tokens=max(rows, longest),
            max_requests_per_batch=rows,
        ),
    )  # fmt: skip
    if errors := [output.error for output in found.values() if output.error]:
        raise RuntimeError(f"{len(errors)} of {len(every)} requests failed: {errors[0]}")
    return sum(len(output.generated_tokens) for output in found.values())


def ways(model: Any, eos_id: int) -> dict[str, Callable[[Sequence[Request]], int]]:
    """What is tried: name -> tokens of requests, which have one kind of settings."""
    padded = {f"batch {n}": lambda requests, n=n: batched(model, requests, eos_id, n) for n in BATCHES}
    paged = {f"continuous {n}": lambda requests, n=n: continuous(model, requests, eos_id, n) for n in ROWS}
    return padded | paged
