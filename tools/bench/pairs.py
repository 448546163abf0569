"""Benchmark of resuming, merging parts and building pairs, 1,000,000 judgements: records per second and peak memory.

    python tools/bench/pairs.py [--judgements 100000 1000000] [--words 100] [--directory /tmp] [--quick]

Writes prompts, candidates (4 per prompt) and judgements (3 draws of about 100 words each) as their stages do, then lets
one of 64 shards look for what is left to do, merges the parts, and runs the pairs stage, each in its own process.
Required: 100,000 judgements per second; the candidates and prompts that the pairs stage also reads are not counted in
that. Rates are per CPU second of the one thread, which equals wall time on an idle machine. The merge is `merge_parts`
on the judgements in four parts, as four shards write them: items are assigned round-robin, and each is written up to
256 places away from its position.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import dump
from nemo_srlm.core.parts import merge_parts, remaining
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Candidate, Judgement, Prompt, Record, content_id
from nemo_srlm.core.stage import Context
from nemo_srlm.stages.pairs import STAGE

SENTENCE = "the response is relevant and gives useful detail about “this” topic but misses one point of the question"
HEADER = (
    "| step | judgements | seconds | CPU seconds | judgements/CPU s | records/CPU s | peak MiB |\n" + "|---" * 7 + "|"
)
CAPACITY = 256
WORDS = tuple(SENTENCE.split(" "))


def records(judgements: int, words: int) -> Iterator[tuple[Prompt, list[Candidate], list[Judgement]]]:
    rng = random.Random(0)
    texts = [" ".join(rng.choice(WORDS) for _ in range(words)) for _ in range(64)]
    for i in range(judgements // 4):
        prompt = Prompt(content_id(i), f"{i}: {texts[i % 64][:200]}", "generated", tuple(t[:200] for t in texts[:8]))
        made, judged = [], []
        for n in range(4):
            made.append(Candidate(content_id(i, n), prompt.id, n, f"{n} {texts[rng.randrange(64)]}", "stop", 130))
            scores = tuple(float(rng.randrange(6)) if rng.random() > 0.05 else None for _ in range(3))
            drawn = tuple(f"{texts[rng.randrange(64)]}\n\nScore: {score}" for score in scores)
            judged.append(Judgement(made[-1].id, prompt.id, scores, drawn, ("stop",) * 3))
        yield prompt, made, judged


def make(directory: Path, judgements: int, words: int) -> None:
    """Writes the inputs, and the judgements a second time as the parts of four shards."""
    (directory / "merge" / "parts").mkdir(parents=True)
    with (
        ExitStack() as stack,
        (directory / "prompts.jsonl").open("w", encoding="utf-8") as prompts,
        (directory / "candidates.jsonl").open("w", encoding="utf-8") as candidates,
        (directory / "judgements.jsonl").open("w", encoding="utf-8") as judged,
    ):
        names = [directory / "merge" / "parts" / f"{i:05d}-of-00004.jsonl" for i in range(4)]
        shards = [Shard(stack.enter_context(name.open("w", encoding="utf-8"))) for name in names]
        for i, (prompt, made, draws) in enumerate(records(judgements, words)):
            prompts.write(dump(prompt))
            candidates.writelines(dump(record) for record in made)
            lines = [dump(record) for record in draws]
            judged.writelines(lines)
            for n, line in enumerate(lines):
                shards[(4 * i + n) % 4].finish(line)
        for shard in shards:
            shard.end()


class Shard:
    """Writes lines in the order in which an engine finishes items: any of the CAPACITY items in flight may be next."""

    def __init__(self, file: IO[str]) -> None:
        self.file, self.at_work, self.rng = file, list[str](), random.Random(1)

    def finish(self, line: str) -> None:
        self.at_work.append(line)
        if len(self.at_work) == CAPACITY:
            self.file.write(self.at_work.pop(self.rng.randrange(CAPACITY)))

    def end(self) -> None:
        self.rng.shuffle(self.at_work)
        self.file.writelines(self.at_work)


def ids(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as f:
        for line in f:
            yield line[7:23]  # {"id":"................"


def measured(directory: Path, what: str) -> None:
    """Runs one measured step in its own process; prints seconds and peak memory as JSON."""
    (directory / what).mkdir(exist_ok=True)
    inputs = {"prompts": directory, "candidates": directory, "judge": directory}
    ctx = Context(Config(), 1, directory / what, inputs, Progress(directory / what))
    started, cpu = time.perf_counter(), time.process_time()
    if what == "pairs":
        STAGE.run(ctx)
    elif what == "resume":
        left, _ = remaining(
            replace(ctx, dir=directory / "merge", num_shards=64),
            ((i, None) for i in ids(directory / "candidates.jsonl")),
        )
        assert not left
    elif what == "merge":
        cls: type[Record] = Judgement
        merge_parts(ctx, cls, ids(directory / "candidates.jsonl"), "judgements.jsonl")
    took = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
    print(json.dumps(took | {"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judgements", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--words", type=int, default=100, help="of a judgement's draw and of a response")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--quick", action="store_true", help="20,000 judgements: checks that it works, not its speed")
    parser.add_argument("--measure", nargs=2, metavar=("DIRECTORY", "WHAT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measured(Path(arguments.measure[0]), arguments.measure[1])
        return
    if arguments.quick:
        arguments.judgements = [2_000, 20_000]
    print(HEADER)
    for number in arguments.judgements:
        with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
            make(Path(name), number, arguments.words)
            for what, each in (("nothing", 0.0), ("resume", 1.0), ("merge", 1.0), ("pairs", 2.25)):
                command = [sys.executable, __file__, "--measure", name, what]
                done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                rates = [f"{number * f / done['cpu']:,.0f}" if f else "-" for f in (min(each, 1.0), each)]
                times = f"{done['seconds']:.2f} | {done['cpu']:.2f}"
                print(f"| {what} | {number:,} | {times} | {' | '.join(rates)} | {done['mib']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
