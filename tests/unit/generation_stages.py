"""A generation stage on a fake engine: its config, context, inputs and run."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import write_records
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import Prompt, RankedReply, SftExample
from nemo_srlm.core.stage import Context, Stage
from nemo_srlm.generate import vllm_engine as engines
from nemo_srlm.generate.requests import Failure
from tests.unit.fake_engine import FakeEngine

WORDS = ("apple", "bear", "boat", "cocoa", "deer", "fig", "goat", "hat", "ice", "jam", "kite", "lion", "milk", "nut", "owl",
         "pear", "rake", "scarf", "tea", "urn", "van", "wolf")  # fmt: skip


def sentence(seed: int, words: int = 7) -> str:
    rng = random.Random(seed)
    return "Name " + " ".join(rng.choice(WORDS) for _ in range(words))


def config() -> Config:
    cfg = Config()
    cfg.prompts.num_prompts, cfg.prompts.round_size, cfg.prompts.rouge_max = 40, 24, 0.8
    cfg.prompts.template = "prompts/write_prompt.txt"
    return cfg


def seed_stage(root: Path) -> Path:
    seed = root / "seed"
    seed.mkdir(exist_ok=True)
    write_records(seed / "ift.jsonl", [SftExample(f"s{i}", sentence(10**6 + i), "yes", "ift") for i in range(12)])
    write_records(seed / "eval_prompts.jsonl", [Prompt(f"e{i}", sentence(2 * 10**6 + i), "eval") for i in range(5)])
    replies = [
        RankedReply(f"v{i}{rank}", f"v{i}", f"Question {i}?", "good" if rank == 0 else "bad", rank)
        for i in range(4)
        for rank in range(2)
    ]
    write_records(seed / "ranked_valid.jsonl", replies)
    return seed


def context(cfg: Config, root: Path, name: str, shard: int = 0, num: int = 1, iteration: int = 1) -> Context:
    directory = root / name
    directory.mkdir(exist_ok=True)
    inputs = {key: root / key for key in ("prompts", "candidates", "model", "writer")}
    inputs |= {"seed": seed_stage(root), "held_out": root / "seed", "prompts1": root / "prompts"}
    return Context(cfg, iteration, directory, inputs, Progress(directory, shard), shard, num)


Answer = Callable[[str, int], str | Failure]


def use(monkeypatch: pytest.MonkeyPatch, answer: Answer, stop_after: int | None = None) -> FakeEngine:
    engine = FakeEngine(answer, stop_after)
    monkeypatch.setattr(engines, "shared", lambda slot, path, cfg: engine)
    return engine


def run(stage: Stage, ctx: Context) -> dict[str, object]:
    stage.run(ctx)
    return stage.finalize(ctx)


def write_prompts(root: Path, number: int = 6) -> None:
    (root / "prompts").mkdir(exist_ok=True)
    write_records(root / "prompts" / "prompts.jsonl", [Prompt(f"p{i}", f"Question {i}?") for i in range(number)])


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def responds(text: str, seed: int) -> str:
    return f"answer {seed} to {text}"


def judges(text: str, seed: int) -> str:
    return f"It is fine. Score: {seed % 64 + (2 if 'good' in text else 0)}"
