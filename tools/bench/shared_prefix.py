"""Benchmark of what DPO saves on prompts: their logits, which no loss needs, and with dpo.shared_prefix their second reading.

    python tools/bench/shared_prefix.py [--rounds 3] [--steps 6] [--shapes 0.9M 13M] [--quick]

Random ids, fp32, one process with one thread, one epoch from new weights: reference pass, check of the first loss, steps.
Three sides alternate, round by round, in one process, so that other work on the machine meets all: plain packed rows with the
logits of every position (as all were before the output layer left out those without a loss), plain packed rows, and rows in
which the prompt of a pair is read once. The ratios are those of the medians, of processor time and by the clock; `steps`
leaves out all before the end of the first step. Beside them stands the ratio of positions that are read, which is the most
that shared rows can give where attention costs nothing. The aim is for the first side over the last. Losses must agree to 1e-5.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np

from nemo_srlm.config.training import DpoSection, ModelSection, ParallelSection, PrecisionSection
from nemo_srlm.data.chat import Document
from nemo_srlm.train import metrics
from nemo_srlm.train.batches import BatchLayout, part_lengths
from nemo_srlm.train.megatron import target_logits
from nemo_srlm.train.megatron.dpo import fit_dpo
from nemo_srlm.train.megatron.job import Job, start
from nemo_srlm.train.megatron.quiet import quiet
from nemo_srlm.train.megatron.reference import Pair

SHAPES = {  # layers, hidden, feed-forward, heads, key/value heads, vocabulary
    "0.9M": (4, 128, 352, 4, 4, 512),
    "13M": (6, 384, 1024, 6, 6, 512),
    "135M": (30, 576, 1536, 9, 3, 49152),
}
KINDS = {  # mean tokens of prompt and response; required ratio of the processor time
    "prompt = 3 x response": (180, 60, 1.6),
    "judgements": (600, 60, 1.6),
    "prompt = response": (60, 60, 1.0),
    "short prompts": (16, 60, 0.98),
}
BATCH = 16
SIDES = ("every logit", "plain", "shared")


@dataclasses.dataclass(frozen=True)
class Time:
    """Seconds of one training, by the clock and of processor time: whole, and from the end of the first step."""

    wall: float
    cpu: float
    wall_steps: float
    cpu_steps: float


def pairs(count: int, prompt: int, response: int, vocabulary: int) -> list[Pair]:
    """Lengths vary by a third around their means."""
    rng = np.random.default_rng(0)

    def tokens(mean: int) -> list[int]:
        return rng.integers(3, vocabulary, int(rng.integers(mean * 2 // 3, mean * 4 // 3 + 1))).tolist()

    def document(asked: list[int], answer: list[int]) -> Document:
        weights = np.array([0.0] * len(asked) + [1.0] * len(answer), np.float32)
        return Document(np.array(asked + answer, np.int32), weights)

    prompts = [tokens(prompt) for _ in range(count)]
    return [Pair(str(i), *(document(asked, tokens(response)) for _ in range(2))) for i, asked in enumerate(prompts)]


def measure(folder: Path, shape: str, data: list[Pair], side: str) -> tuple[Time, list[float]]:
    """One training, and the losses of its steps."""
    clock: list[tuple[float, float]] = []

    class Clock:
        def update(self, done: float, total: float, unit: str = "items", **info: float | str) -> None:
            clock.append((time.perf_counter(), time.process_time()))

    layers, hidden, ffn, heads, groups, vocabulary = SHAPES[shape]
    model = ModelSection(
        num_layers=layers, hidden_size=hidden, ffn_hidden_size=ffn, num_attention_heads=heads, num_query_groups=groups,
        vocab_size=vocabulary, max_length=1024,
    )  # fmt: skip
    section = DpoSection(
        lr=1e-4, min_lr=1e-4, schedule="constant", warmup_steps=0, dropout=0.0, global_batch=BATCH, micro_batch=BATCH // 2,
        epochs=1.0, max_length=1024, save_every=0, shared_prefix=side == "shared",
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=folder) as name:
        job = Job(
            "dpo", model, ParallelSection(processes=1), PrecisionSection(dtype="fp32"), section, 0, Path(name), None, Clock()
        )  # fmt: skip
        trainer = start(job)
        began = time.perf_counter(), time.process_time()
        selects = target_logits.selects if side != "every logit" else lambda chunk: False
        with mock.patch.object(target_logits, "selects", selects):
            fit_dpo(trainer, data, (), section)
        losses = [json.loads(line)["loss"] for line in (Path(name) / metrics.METRICS).read_text().splitlines()]
    whole, steps = (tuple(b - a for a, b in zip(first, clock[-1], strict=True)) for first in (began, clock[0]))
    return Time(*whole, *steps), losses


def read_ratio(data: list[Pair]) -> float:
    """Positions that plain rows read, over those of shared ones."""
    plain, shared = (
        sum(sum(part_lengths((pair.chosen, pair.rejected), BatchLayout(packed=True, shared=shared))) for pair in data)
        for shared in (False, True)
    )
    return plain / shared


def ratios(first: list[Time], last: list[Time]) -> dict[str, float]:
    """The median of each time of `first`, over that of `last`."""
    return {
        field.name: statistics.median(getattr(t, field.name) for t in first)
        / statistics.median(getattr(t, field.name) for t in last)
        for field in dataclasses.fields(Time)
    }


def compare(folder: Path, shape: str, kind: str, rounds: int, steps: int) -> bool:
    """Prints the ratios; returns whether the required one is reached and the losses agree."""
    prompt, response, aim = KINDS[kind]
    data = pairs(BATCH * steps, prompt, response, SHAPES[shape][-1])
    times: dict[str, list[Time]] = {side: [] for side in SIDES}
    losses: dict[str, list[float]] = {}
    for number in range(rounds):
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            found, losses[side] = measure(folder, shape, data, side)
            times[side].append(found)
    gap = max(abs(a - b) for side in SIDES for a, b in zip(losses[SIDES[0]], losses[side], strict=True))
    print(
        f"{shape}, {kind} ({prompt} / {response}), positions read {read_ratio(data):.2f}x, losses differ by {gap:.1e}"
    )
    for first, last in (SIDES[:2], SIDES[1:], SIDES[::2]):
        ratio = ratios(times[first], times[last])
        print(
            f"  {first} / {last}: {ratio['cpu']:.2f}x of processor time, {ratio['wall']:.2f}x by the clock; steps "
            f"{ratio['cpu_steps']:.2f}x, {ratio['wall_steps']:.2f}x{f' (aim {aim})' if (first, last) == SIDES[::2] else ''}",
            flush=True,
        )
    return ratio["cpu"] >= aim and gap <= 1e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["0.9M", "13M"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument(
        "--quick", action="store_true", help="one round of two steps of the smallest model; no aim fails"
    )
    args = parser.parse_args()
    quiet()
    rounds, steps = (1, 2) if args.quick else (args.rounds, args.steps)
    holds = True
    with tempfile.TemporaryDirectory() as name:
        for shape in args.shapes[:1] if args.quick else args.shapes:
            for kind in args.kinds:
                holds = compare(Path(name), shape, kind, rounds, steps) and holds
    return 0 if holds or args.quick else 1


if __name__ == "__main__":
    sys.exit(main())
