"""Benchmark of the ROUGE-L prompt filter against rouge_score: speed, equal decisions, growth with the number of prompts.

    python tools/bench/rouge.py [--sizes 5000 20000 100000 1000000] [--pieces 2] [--check 20000] [--quick]

Texts are real (tools/bench/texts.py). If more are needed, the first half of one real text is joined with the second half
of another: such a text shares a half with ever more earlier ones, and each of them is a candidate. With --pieces 4 a quarter
of each of four texts is joined, and few pairs share more than one. One pass prints a row at each size: what a filter of that
many prompts has taken so far. rouge_score is timed on a sample of pairs and extrapolated to all pairs. Rates are per CPU
second of one thread; the pairs are those that a comparison of all would look at.
"""

import argparse
import random
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from math import log
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist
from rouge_score.rouge_scorer import RougeScorer

from nemo_srlm.config.generation import PromptsSection
from nemo_srlm.data.prompt_filters import PromptFilter
from nemo_srlm.data.rouge import Code, RougeIndex, needed
from tools.bench.texts import sentences


def texts(pieces: int = 2) -> Iterator[str]:
    """Real texts, and then pieces of them joined, without end."""
    real, rng = sentences(), random.Random(1)
    yield from real
    while True:
        joined: list[str] = []
        for i in range(pieces):
            words = rng.choice(real).split()
            joined += words[len(words) * i // pieces : len(words) * (i + 1) // pieces]
        yield " ".join(joined)


def compare(pool: list[str], pairs: int, threshold: float) -> tuple[float, int, int]:
    """(pairs per CPU second of rouge_score, differing decisions, decisions above the threshold) on random and near pairs."""
    rng, scorer = random.Random(2), RougeScorer(["rougeL"], use_stemmer=False)
    different = above = 0
    spent = 0.0
    for i in range(pairs):
        a, b = rng.choice(pool), rng.choice(pool)
        if i % 2:  # near pair: some words of one text dropped or replaced
            b = " ".join(rng.choice([word] * 4 + ["", rng.choice(b.split())]) for word in a.split())
        started = time.process_time()
        expected = scorer.score(a, b)["rougeL"].fmeasure > threshold
        spent += time.process_time() - started
        index = RougeIndex(threshold)
        index.add(index.encode(a))
        different += index.has_similar(index.encode(b)) != expected
        above += expected
    return pairs / spent, different, above


def missed(prompts: list[str], threshold: float) -> int:
    """In how many decisions the index differs from a comparison of all pairs."""
    index = RougeIndex(threshold)
    pool: dict[int, list[Code]] = defaultdict(list)  # by length
    different = 0
    for code in map(index.encode, prompts):
        close = False
        for length, earlier in pool.items():
            if code and not close and (least := int(needed(threshold, len(code), np.array([length]))[0])):
                close = bool((cdist([code], earlier, scorer=LCSseq.similarity, score_cutoff=least) >= least).any())
        different += index.has_similar(code) != close
        index.add(code)
        if code:
            pool[len(code)].append(code)
    return different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 20_000, 100_000, 1_000_000])
    parser.add_argument("--pieces", type=int, default=2, help="of real texts, in each text that is not real")
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
    most = min(arguments.sizes)
    differing = missed(list(islice(texts(arguments.pieces), most)), section.rouge_max)
    print(f"of {most:,} decisions {differing} differ from a comparison of all pairs\n")
    print(
        "| prompts | accepted | seconds | CPU seconds | exponent | pairs/CPU s | times rouge_score | peak MiB |\n"
        + "|---" * 8
        + "|"
    )
    found, source, done, wall, cpu, pairs = PromptFilter(section, []), texts(arguments.pieces), 0, 0.0, 0.0, 0
    before = (0, 0.0)
    for number in sorted(arguments.sizes):
        while done < number:
            some = list(islice(source, min(section.round_size, number - done)))
            pairs += len(some) * found.counts["accepted"] + len(some) ** 2 // 2
            began = time.perf_counter(), time.process_time()
            found.accept(some)
            wall, cpu = wall + time.perf_counter() - began[0], cpu + time.process_time() - began[1]
            done += len(some)
        # of growth since the row before: 1 is a time for each text that does not depend on how many there are
        exponent = f"{log(cpu / before[1]) / log(number / before[0]):.2f}" if before[0] else "-"
        before = (number, cpu)
        times = f"{wall:.1f} | {cpu:.1f} | {exponent} | {pairs / cpu:,.0f} | {pairs / cpu / rate:,.0f}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {number:,} | {found.counts['accepted']:,} | {times} | {peak:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
