"""seed: Open Assistant exports (or the tiny world's trees) -> IFT, ranked replies for EFT, held-out sets.

Writes ift.jsonl (SftExample), ranked_train.jsonl and ranked_valid.jsonl (RankedReply), eval_prompts.jsonl (Prompt).
No instruction is in two of them. In the tiny world the held-out sets are its dev and test splits together: no prompt
that is written later may repeat either. The stage held_out chooses the one that evaluation reads.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.core.files import content_digest, read_json, write_json, write_records
from nemo_srlm.core.pipeline import world_inputs
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.data.oasst import read_first_turns
from nemo_srlm.data.splits import Split, instruction_id, split
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.tiny_world.files import HELD_OUT_SPLITS, TREES, read_eval_prompts, read_judge_eval

COUNTS = "counts.json"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return world_inputs(cfg)


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    """Files count by content, not by path."""
    own, world = identity(cfg.seed), bool(world_inputs(cfg))
    own["files"] = [] if world else [content_digest(path) for path in _files(cfg)]
    asked = {name: identity(cfg.eft)[name] for name in ("source", "num_train", "num_valid")}
    return {"seed": own, "eft": asked, "world": world}


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
    world = ctx.inputs.get("world")
    files = _files(cfg) if world is None else [world / TREES]
    turns = read_first_turns(files, cfg.seed.language, counts)
    result = split(turns, cfg.seed, cfg.eft, counts, held_out=world is None)
    if world is not None:
        result = _with_world(result, world, counts)
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
    """The training sets of `result` with the tiny world's held-out sets. Raises DataError where they overlap."""
    prompts = [prompt for name in HELD_OUT_SPLITS for prompt in read_eval_prompts(world, name)]
    ranked = [reply for name in HELD_OUT_SPLITS for reply in read_judge_eval(world, name)]
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
