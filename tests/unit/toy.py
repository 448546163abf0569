"""A pipeline of two stages for tests of stage execution: `numbers` writes numbers, `squares` squares them item by item."""

import json
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import read_records, write_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.records import Prompt
from nemo_srlm.core.stage import Context, Ref, Stage
from tests.items import run_items

COUNT = 10


def _numbers(ctx: Context) -> None:
    write_records(ctx.dir / "numbers.jsonl", (Prompt(f"n{i}", str(i)) for i in range(COUNT)))


def _count(ctx: Context) -> dict[str, Any]:
    return {"count": sum(1 for _ in read_records(ctx.dir / "numbers.jsonl", Prompt))}


NUMBERS = Stage("numbers", "cpu", lambda cfg, t: {}, lambda cfg, t: {"seed": identity(cfg.seed)}, _numbers, _count)


def items(ctx: Context) -> list[tuple[str, Prompt]]:
    return [(p.id, p) for p in read_records(ctx.inputs["numbers"] / "numbers.jsonl", Prompt)]


def _squares(ctx: Context) -> None:
    def process(batch: list[tuple[str, Prompt]]) -> list[Prompt]:
        return [Prompt(i, str(int(p.text) ** 2)) for i, p in batch]

    run_items(ctx, items(ctx), process, batch=3)


def _merge(ctx: Context) -> dict[str, Any]:
    return {"count": merge_parts(ctx, Prompt, [i for i, _ in items(ctx)], "squares.jsonl")}


SQUARES = Stage(
    "squares", "generate", lambda cfg, t: {"numbers": Ref("numbers", 0)}, lambda cfg, t: {"judge": identity(cfg.judge)},
    _squares, _merge, lambda cfg: cfg.judge.shards,
)  # fmt: skip


def config(root: Path, **judge: Any) -> Config:
    cfg = Config()
    cfg.run.root, cfg.run.name = str(root), "toy"
    for key, value in judge.items():
        setattr(cfg.judge, key, value)
    return cfg


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]
