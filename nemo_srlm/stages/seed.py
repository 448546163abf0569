"""seed: Open Assistant exports (or the tiny world's trees) -> IFT, ranked replies for EFT, held-out sets.

Writes ift.jsonl (SftExample), ranked_train.jsonl and ranked_valid.jsonl (RankedReply), eval_prompts.jsonl (Prompt).
No instruction is in two of them. In the tiny world the held-out sets are the world's own, of its development and test
splits together: nothing that is written later may repeat either. The stage held_out picks what evaluation reads.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core import files as core_files
from nemo_srlm.core.files import read_json, read_records, write_json, write_records
from nemo_srlm.core.records import Prompt, RankedReply
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.data.oasst import read_first_turns
from nemo_srlm.data.splits import Split, instruction_id, split
from nemo_srlm.errors import ConfigError, DataError

WORLD_TREES = "seed.trees.jsonl.gz"
COUNTS = "counts.json"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return {"world": Ref("world", 0)} if cfg.world.enabled else {}


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    """Files count by content, not by path."""
    own = identity(cfg.seed)
    if cfg.world.enabled:
        own["files"] = []
    else:
        own["files"] = [core_files.content_digest(path) for path in _files(cfg)]
    asked = {name: identity(cfg.eft)[name] for name in ("source", "num_train", "num_valid")}
    return {"seed": own, "eft": asked, "world": cfg.world.enabled}


def _files(cfg: Config) -> list[Path]:
    if not cfg.seed.files:
        raise ConfigError(
            "seed.files", "empty", "Open Assistant exports (*.trees.jsonl.gz or *.messages.jsonl.gz)",
            "set seed.files=[path, ...]; or world.enabled=true for the tiny world",
        )  # fmt: skip
    files = [Path(name) for name in cfg.seed.files]
    for path in files:
        if not path.is_file():
            raise DataError(path, "no such file", "an Open Assistant export", "correct seed.files")
    return files


def _run(ctx: Context) -> None:
    cfg, counts = ctx.cfg, Counter[str]()
    files = [ctx.inputs["world"] / WORLD_TREES] if cfg.world.enabled else _files(cfg)
    turns = read_first_turns(files, cfg.seed.language, counts)
    result = split(turns, cfg.seed, cfg.eft, counts, held_out=not cfg.world.enabled)
    if cfg.world.enabled:
        result = _with_world(result, ctx.inputs["world"], counts)
    if not result.ift:
        raise DataError(
            ", ".join(map(str, files)), f"no first turn for IFT ({dict(counts)})",
            f"finished trees in {cfg.seed.language!r} with a reply of rank 0", "check seed.files and seed.language",
        )  # fmt: skip
    write_records(ctx.dir / "ift.jsonl", result.ift)
    write_records(ctx.dir / "ranked_train.jsonl", result.ranked_train)
    write_records(ctx.dir / "ranked_valid.jsonl", result.ranked_valid)
    write_records(ctx.dir / "eval_prompts.jsonl", result.eval_prompts)
    write_json(ctx.dir / COUNTS, dict(sorted(counts.items())))
    ctx.progress.update(1, 1, "files")


def _with_world(result: Split, world: Path, counts: Counter[str]) -> Split:
    """The world's held-out sets, checked against what it gave for training."""
    prompts = [p for path in sorted(world.glob("eval_prompts.*.jsonl")) for p in read_records(path, Prompt)]
    ranked = [r for path in sorted(world.glob("judge_eval.*.jsonl")) for r in read_records(path, RankedReply)]
    trained = {instruction_id(example.prompt) for example in result.ift}
    trained |= {reply.instruction_id for reply in result.ranked_train}
    held_out = {instruction_id(text) for text in [*(p.text for p in prompts), *(r.instruction for r in ranked)]}
    if both := trained & held_out:
        raise DataError(world, f"{len(both)} instructions are both trained on and held out", "disjoint sets")
    counts["eval_prompts"], counts["ranked_valid"] = len(prompts), len(ranked)
    return Split(result.ift, result.ranked_train, ranked, prompts)


def _finalize(ctx: Context) -> dict[str, Any]:
    counts: dict[str, Any] = read_json(ctx.dir / COUNTS)
    names = ("ift", "ranked_train", "ranked_valid", "eval_prompts")
    return {**counts, "summary": ", ".join(f"{counts[name]} {name}" for name in names)}


STAGE = Stage("seed", "cpu", _inputs, _identity, _run, _finalize)
