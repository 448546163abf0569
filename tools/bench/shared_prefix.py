"""Benchmark of dpo.shared_prefix: DPO on plain packed rows against rows in which the prompt of a pair is read once.

    python tools/bench/shared_prefix.py [--rounds 3] [--steps 6] [--shapes 0.9M 13M] [--quick]

Random ids, fp32, one process with one thread, one epoch from new weights: reference pass, check of the first loss, steps.
The two sides alternate, round by round, in one process, so that other work on the machine meets both. The ratio is that of
the medians, of processor time and by the clock; `steps` leaves out all before the end of the first step. Beside it stands
the ratio of positions that are read, which is the most that rows can give where attention costs nothing. Losses must agree
to 1e-5.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from nemo_srlm.config.training import DpoSection, ModelSection, ParallelSection, PrecisionSection
from nemo_srlm.data.chat import Document
from nemo_srlm.train import metrics
from nemo_srlm.train.batches import BatchLayout, part_lengths
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


def measure(folder: Path, shape: str, data: list[Pair], shared: bool) -> tuple[Time, list[float]]:
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
        epochs=1.0, max_length=1024, save_every=0, shared_prefix=shared,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=folder) as name:
        job = Job(
            "dpo", model, ParallelSection(processes=1), PrecisionSection(dtype="fp32"), section, 0, Path(name), None, Clock()
        )  # fmt: skip
        trainer = start(job)
        began = time.perf_counter(), time.process_time()
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


def compare(folder: Path, shape: str, kind: str, rounds: int, steps: int) -> bool:
    """Prints the ratios; returns whether the required one is reached and the losses agree."""
    prompt, response, aim = KINDS[kind]
    data = pairs(BATCH * steps, prompt, response, SHAPES[shape][-1])
    times: dict[bool, list[Time]] = {False: [], True: []}
    losses: dict[bool, list[float]] = {}
    for number in range(rounds):
        for shared in (False, True) if number % 2 == 0 else (True, False):
            found, losses[shared] = measure(folder, shape, data, shared)
            times[shared].append(found)
    ratio = {
        field.name: statistics.median(getattr(t, field.name) for t in times[False])
        / statistics.median(getattr(t, field.name) for t in times[True])
        for field in dataclasses.fields(Time)
    }
    gap = max(abs(a - b) for a, b in zip(losses[False], losses[True], strict=True))
    print(
        f"{shape}, {kind} ({prompt} / {response}): plain / shared {ratio['cpu']:.2f}x of processor time (aim {aim}), "
        f"{ratio['wall']:.2f}x by the clock; steps {ratio['cpu_steps']:.2f}x, {ratio['wall_steps']:.2f}x; positions read "
        f"{read_ratio(data):.2f}x; losses differ by {gap:.1e}",
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
