"""Real texts for the benchmarks: instructions and sentences of ../shared/data, in a fixed order."""

import gzip
import json
import random
import re
from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


MIN_WORDS, MAX_WORDS = 4, 150


def sentences() -> list[str]:
    """All distinct texts of MIN_WORDS..MAX_WORDS words: whole instructions; responses and OASST messages split into sentences."""
    whole: list[str] = []
    running: list[str] = []
    for name in ("self_instruct_seed_tasks", "mt_bench_questions"):
        for line in (SHARED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            data = json.loads(line)
            whole += data["turns"] if "turns" in data else [data["instruction"]]
    for name in ("gpt4_1106_preview", "humpback-llama2-70b"):
        with gzip.open(SHARED / f"alpaca_eval2_outputs_{name}.json.gz", "rt", encoding="utf-8") as f:
            for row in json.load(f):
                whole.append(row["instruction"])
                running.append(row["output"])
    with gzip.open(SHARED / "oasst_sample.trees.jsonl.gz", "rt", encoding="utf-8") as f:
        stack = [json.loads(line)["prompt"] for line in f]
    while stack:
        message = stack.pop()
        running.append(message["text"])
        stack += message["replies"]
    pieces = [piece.strip() for text in running for piece in re.split(r"(?<=[.!?])\s+|\n+", text)]
    texts = list(dict.fromkeys(text for text in whole + pieces if MIN_WORDS <= len(text.split()) <= MAX_WORDS))
    random.Random(0).shuffle(texts)
    return texts
