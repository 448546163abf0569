"""The files that the stage `world` writes, and their readers."""

from pathlib import Path

from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Prompt, RankedReply

CORPUS, TREES, TOKENIZER = "corpus.jsonl", "seed.trees.jsonl.gz", "tokenizer"
HELD_OUT_SPLITS = ("dev", "test")
SELECTION_SPLIT = "dev"  # checkpoints are chosen on this split; results are reported on the other (config/checks.py)


def eval_prompts_file(world: Path, split: str) -> Path:
    return world / f"eval_prompts.{split}.jsonl"


def judge_eval_file(world: Path, split: str) -> Path:
    return world / f"judge_eval.{split}.jsonl"


def read_eval_prompts(world: Path, split: str) -> list[Prompt]:
    """The held-out prompts of a split."""
    return list(read_records(eval_prompts_file(world, split), Prompt))


def read_judge_eval(world: Path, split: str) -> list[RankedReply]:
    """The held-out ranked replies of a split."""
    return list(read_records(judge_eval_file(world, split), RankedReply))
