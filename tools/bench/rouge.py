"""Benchmark of the ROUGE-L prompt filter against rouge_score: speed, equal decisions, growth with the number of prompts.

    python tools/bench/rouge.py [--sizes 5000 10000 20000 100000] [--check 20000] [--quick]

Texts are real (tools/bench/texts.py). If more are needed, the first half of one real text is joined with the second half
of another. rouge_score is timed on a sample of pairs and extrapolated to all pairs. Rates are per CPU second of one
thread.
"""

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rouge_score.rouge_scorer import RougeScorer

from nemo_srlm.config.generation import PromptsSection
from nemo_srlm.data.prompt_filters import PromptFilter, RougeIndex
from tools.bench.texts import sentences


def texts(number: int) -> list[str]:
    real, rng = sentences(), random.Random(1)
    made = list(real)
    while len(made) < number:
        first, second = rng.choice(real).split(), rng.choice(real).split()
        made.append(" ".join(first[: len(first) // 2] + second[len(second) // 2 :]))
    return made[:number]


def compare(pool: list[str], pairs: int, threshold: float) -> tuple[float, int, int]:
    """(pairs per CPU second of rouge_score, differing decisions, decisions above the threshold) on random and near pairs."""
    rng, scorer = random.Random(2), RougeScorer(["rougeL"], use_stemmer=False)
    index = RougeIndex(threshold)
    different = above = 0
    spent = 0.0
    for i in range(pairs):
        a, b = rng.choice(pool), rng.choice(pool)
        if i % 2:  # near pair: some words of one text dropped or replaced
            b = " ".join(rng.choice([word] * 4 + ["", rng.choice(b.split())]) for word in a.split())
        started = time.process_time()
        expected = scorer.score(a, b)["rougeL"].fmeasure > threshold
        spent += time.process_time() - started
        codes = [index.encode(a), index.encode(b)]
        different += (index.similar_earlier(codes)[1] != []) != expected
        above += expected
    return pairs / spent, different, above


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 10_000, 20_000, 100_000])
    parser.add_argument("--check", type=int, default=20_000, metavar="PAIRS")
    parser.add_argument("--quick", action="store_true", help="1,000 prompts: checks that it works, not its speed")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.check = [1_000], 1_000
    section = PromptsSection(keywords=[], starts=[], ascii_start=False)
    rate, different, above = compare(sentences(), arguments.check, section.rouge_max)
    print(
        f"rouge_score: {rate:,.0f} pairs/CPU s; {different} of {arguments.check:,} decisions differ ({above:,} above)\n"
    )
    print("| prompts | accepted | seconds | CPU seconds | pairs/CPU s | times rouge_score |\n|---|---|---|---|---|---|")
    for number in arguments.sizes:
        prompts, found = texts(number), PromptFilter(section, [])
        wall, cpu, pairs = time.perf_counter(), time.process_time(), 0
        for start in range(0, number, section.round_size):
            some = prompts[start : start + section.round_size]
            pairs += len(some) * found.counts["accepted"] + len(some) ** 2 // 2
            found.accept(some)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        times = f"{wall:.1f} | {cpu:.1f} | {pairs / cpu:,.0f} | {pairs / cpu / rate:,.0f}"
        print(f"| {number:,} | {found.counts['accepted']:,} | {times} |", flush=True)


if __name__ == "__main__":
    main()
