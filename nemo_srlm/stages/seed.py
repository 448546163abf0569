"""seed: the user's data (or the tiny world's trees) -> IFT, ranked replies for EFT, prompts of files, held-out sets.

Writes ift.jsonl (SftExample), ranked_train.jsonl and ranked_valid.jsonl (RankedReply), eval_prompts.jsonl (Prompt);
with seed.chat_files conversations.jsonl (Conversation), with prompts.files file_prompts.jsonl (Prompt).
Nothing that is held out is in another set. In the tiny world the held-out sets are its dev and test splits together: no
prompt that is written later may repeat either. The stage held_out chooses the one that evaluation reads.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_srlm.config.fields import identity
from nemo_srlm.config.generation import of_iteration
from nemo_srlm.config.schema import Config
from nemo_srlm.config.shipped import data_file
from nemo_srlm.core.files import content_digest, read_json, write_json, write_records
from nemo_srlm.core.pipeline import world_inputs
from nemo_srlm.core.records import Prompt, content_id
from nemo_srlm.core.stage import Context, Ref, Stage
from nemo_srlm.data.conversations import read_conversations
from nemo_srlm.data.near_copies import HeldOut
from nemo_srlm.data.oasst import FirstTurn, read_first_turns
from nemo_srlm.data.prompt_sets import file_prompts, part_of_iteration, read_prompt_set
from nemo_srlm.data.splits import Split, apart_from, instruction_id, split
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.stages.common.seed_files import CONVERSATIONS, FILE_PROMPTS, HELD_OUT
from nemo_srlm.tiny_world.files import HELD_OUT_SPLITS, TREES, read_eval_prompts, read_judge_eval

COUNTS = "counts.json"


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    return world_inputs(cfg)


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    """Files count by content, not by path."""
    own, world = identity(cfg.seed), bool(world_inputs(cfg))
    own["files"] = [] if world else [content_digest(path) for path in _files(cfg)]
    if cfg.seed.chat_files:
        own["chat_files"] = [content_digest(Path(path)) for path in cfg.seed.chat_files]
    asked = {name: identity(cfg.eft)[name] for name in ("source", "num_train", "num_valid")}
    if cfg.eft.turns != "first":
        asked["turns"] = cfg.eft.turns
    found = {"seed": own, "eft": asked, "world": world}
    if cfg.run.start != "base":
        found["run"] = {"start": cfg.run.start}
    if prompts := _prompt_files(cfg):
        found["prompts"] = {"files": [content_digest(path) for path in prompts], "held_out": {}}  # as 0.1 wrote it
    if apart := _held_out_files(cfg):
        found["held_out"] = sorted({content_digest(path) for path in apart})
    return found


def _check(cfg: Config) -> None:
    """Raises ConfigError where a run needs Open Assistant exports or files of prompts and none is named."""
    if not world_inputs(cfg):
        _trees_named(cfg)
    _prompt_files(cfg)
    for path in _held_out_files(cfg):
        read_prompt_set(path, Counter())


def _trees_named(cfg: Config) -> None:
    ranks = cfg.eft.source != "none"
    ift = cfg.run.start == "base" and not cfg.seed.chat_files
    shots = cfg.prompts.source != "file" and not cfg.prompts.files
    if not cfg.seed.files and (ranks or ift or shots):
        use = f"eft.source={cfg.eft.source}" if ranks else f"run.start={cfg.run.start}" if ift else "prompts.source"
        raise ConfigError(
            "seed.files", f"empty, with {use}", "Open Assistant exports (*.trees.jsonl.gz or *.messages.jsonl.gz)",
            "set seed.files=[path, ...]; or run.start=instruct eft.source=none prompts.source=file prompts.files=[path] for an "
            "instruct model and prompts alone; or world.enabled=true for the tiny world",
        )  # fmt: skip


def _files(cfg: Config) -> list[Path]:
    """The Open Assistant exports. Raises ConfigError where a run needs some and there is none."""
    _trees_named(cfg)
    files = [data_file(name) for name in cfg.seed.files]
    for path in files:
        if not path.is_file():
            raise DataError(path, "no such file", "an Open Assistant export", "correct seed.files")
    return files


def _prompt_files(cfg: Config) -> list[Path]:
    """The files of prompts. Raises ConfigError where prompts come from files and there is none."""
    if cfg.prompts.source != "written" and not cfg.prompts.files:
        raise ConfigError(
            "prompts.files",
            f"empty, with prompts.source={cfg.prompts.source}",
            "files of prompts",
            "set prompts.files=[path, ...]",
        )
    return [Path(name) for name in cfg.prompts.files]


def _held_out_files(cfg: Config) -> list[Path]:
    """The user's files of prompts that nothing is trained on (seed.held_out)."""
    named = {"eval.prompts": cfg.eval.prompts, "select.prompts": cfg.select.prompts if cfg.select.every else ""}
    return [Path(path) for name in cfg.seed.held_out if (path := named.get(name, name))]


def _run(ctx: Context) -> None:
    cfg, counts = ctx.cfg, Counter[str]()
    world = ctx.inputs.get("world")
    files = _files(cfg) if world is None else [world / TREES]
    turns = _apart(ctx, read_first_turns(files, cfg.seed.language, counts, cfg.eft.turns == "any"), counts)
    result = split(turns, cfg.seed, cfg.eft, counts, held_out=world is None, shared_ift=cfg.run.start == "instruct")
    if world is not None:
        result = _with_world(result, world, counts)
    result = _with_files(ctx, result, counts)
    if not result.ift and cfg.run.start == "base" and not cfg.seed.chat_files:
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


def _own_held_out(cfg: Config) -> list[str]:
    """The texts of the user's files of held-out prompts."""
    return [entry.prompt.text for path in _held_out_files(cfg) for entry in read_prompt_set(path, Counter())]


def _apart(ctx: Context, turns: Iterable[FirstTurn], counts: Counter[str]) -> list[FirstTurn]:
    """The first turns without the user's held-out prompts, which are written for the stage prompts, and their near copies."""
    texts = _own_held_out(ctx.cfg)
    if not texts:
        return list(turns)
    write_records(
        ctx.dir / HELD_OUT, [Prompt(content_id("prompt", text), text, "eval") for text in dict.fromkeys(texts)]
    )
    return apart_from(list(turns), HeldOut(texts, ctx.cfg.seed.rouge_max), counts)


def _with_files(ctx: Context, result: Split, counts: Counter[str]) -> Split:
    """Writes the prompts of prompts.files and the conversations of seed.chat_files, without what is held out.

    Where the trees give no evaluation prompts, some of the files' are held out for that.
    """
    cfg = ctx.cfg
    apart = [prompt.text for prompt in result.eval_prompts]
    apart += [*dict.fromkeys(reply.instruction for reply in result.ranked_valid), *_own_held_out(cfg)]
    if files := _prompt_files(cfg):
        own = 0 if result.eval_prompts or cfg.eval.prompts else cfg.seed.num_eval_prompts
        prompts, held_out = file_prompts(files, apart, cfg.seed.rouge_max, own, counts)
        write_records(ctx.dir / FILE_PROMPTS, prompts)
        if cfg.prompts.source == "file":  # too few are found now, not after an iteration
            numbers = [
                of_iteration(cfg.prompts.per_iteration, t + 1, cfg.prompts.num_prompts) for t in range(cfg.iterations)
            ]
            last = numbers[-1] if numbers else 0
            part_of_iteration(prompts, cfg.iterations, cfg.iterations, last, sum(numbers[:-1]), counts)
        result = replace(result, eval_prompts=result.eval_prompts or held_out)
        apart += [prompt.text for prompt in held_out]
    if cfg.seed.chat_files:
        read = list(read_conversations(map(Path, cfg.seed.chat_files), counts))
        asked = [
            (i, text) for i, c in enumerate(read) for role, text in zip(c.roles, c.texts, strict=True) if role == "user"
        ]
        reasons = HeldOut(apart, cfg.seed.rouge_max).reasons([text for _, text in asked])
        drop = {i: reason for (i, _), reason in zip(asked, reasons, strict=True) if reason}
        counts.update(f"chat_{reason}" for reason in drop.values())
        counts["chat"] = write_records(ctx.dir / CONVERSATIONS, [c for i, c in enumerate(read) if i not in drop])
    return result


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
    names = [
        "ift",
        *(n for n in ("chat", "file_prompts") if n in counts),
        "ranked_train",
        "ranked_valid",
        "eval_prompts",
    ]
    return {**counts, "summary": ", ".join(_of_asked(counts, name) for name in names)}


def _of_asked(counts: dict[str, Any], name: str) -> str:
    """`16 ift`; where a set stays short, `10 of 16 asked ift`."""
    asked = counts.get(f"asked_{name}") or 0  # the training sets of EFT are sized by the stage eft
    return f"{counts[name]} of {asked} asked {name}" if asked > counts[name] > 0 else f"{counts[name]} {name}"


STAGE = Stage("seed", "cpu", _inputs, _identity, _run, _finalize, check=_check)
