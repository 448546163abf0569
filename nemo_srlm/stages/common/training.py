"""Training in a stage: its identity and job, records as documents, the held-out part, the summary of its metrics."""

import functools
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from nemo_srlm.config.fields import identity
from nemo_srlm.config.schema import Config
from nemo_srlm.config.training import TrainSection
from nemo_srlm.core import pipeline
from nemo_srlm.core.control import stop_file
from nemo_srlm.core.files import read_json, read_json_lines, read_records, write_json
from nemo_srlm.core.records import Conversation, SftExample, item_seed
from nemo_srlm.core.stage import Context, Ref
from nemo_srlm.core.trackers import check as check_trackers
from nemo_srlm.core.trackers import projects_of
from nemo_srlm.errors import ConfigError, DataError
from nemo_srlm.judge.eft_comparisons import compares
from nemo_srlm.stages.common.seed_files import CONVERSATIONS
from nemo_srlm.train.layout import check_batches, check_layout
from nemo_srlm.train.schedule import section_of, short_warmup, warmup_steps

if TYPE_CHECKING:
    from pathlib import Path

    from nemo_srlm.data.chat import Chat, Document
    from nemo_srlm.data.tokenizer import Tokenizer
    from nemo_srlm.train.megatron.job import Job


T = TypeVar("T")

DATA = "data.json"  # how many examples were used and dropped, by reason
COMPARISONS = "eft_comparisons"  # used EFT examples that compare; evaluate/alarms.py reads it
TAIL = 20  # logged steps that the summary averages over


def common_identity(cfg: Config, name: Literal["pretrain", "sft", "dpo"]) -> dict[str, Any]:
    """What decides the weights of a training stage, keyed like the settings, so that a difference names the setting."""
    sections = (name, "model", "precision", "chat")
    found = {key: identity(getattr(cfg, key)) for key in sections} | {"run": {"seed": cfg.run.seed}}
    if getattr(cfg, name).keep_best:  # then the weights depend on the steps of validation
        found[name] |= {"validate_every": getattr(cfg, name).validate_every}
    return found


def keep_every(cfg: Config, stage: str) -> int:
    """Steps between the weights that a training stage keeps for select; 0 = it keeps the last ones alone."""
    return cfg.select.every if stage in cfg.select.stages else 0


def policy_identity(cfg: Config, section: Literal["sft", "dpo"], stage: str) -> dict[str, Any]:
    """`common_identity` of a stage that trains a policy."""
    every = keep_every(cfg, stage)
    return common_identity(cfg, section) | ({"select": {"every": every}} if every else {})


def sft_inputs(cfg: Config, eft: bool) -> dict[str, Ref]:
    """Inputs of a stage that tunes M0 on the seed data: IFT where M0 is a base model, and EFT where `eft` and there is any."""
    found = {"base": pipeline.base_ref(cfg), "tokenizer": pipeline.tokenizer_ref(cfg)}
    found |= {"seed": Ref("seed", 0)} if cfg.run.start == "base" else {}
    return found | ({"eft": Ref("eft", 0)} if eft and cfg.eft.source != "none" else {})


def seed_documents(ctx: Context, chat: "Chat", dropped: Counter[str]) -> "dict[str, list[Document]]":
    """The documents of the inputs that `sft_inputs` named, by kind of data; EFT examples that compare are a kind of their own,
    where there are any: they are longer than the others, and one that does not fit is dropped."""
    used: dict[str, list[Document]] = {}
    most = ctx.cfg.sft.max_length
    if "seed" in ctx.inputs:
        used["ift"] = sft_documents(ctx.inputs["seed"] / "ift.jsonl", chat, most, dropped)
        if (conversations := ctx.inputs["seed"] / CONVERSATIONS).exists():
            used["chat"] = keep(
                _chat_documents(read_records(conversations, Conversation), chat, dropped), most, dropped
            )
    if "eft" in ctx.inputs:
        examples = list(read_records(ctx.inputs["eft"] / "eft_train.jsonl", SftExample))
        comparing = [example for example in examples if compares(example)]
        used["eft"] = _documents((example for example in examples if not compares(example)), chat, most, dropped)
        if comparing:
            used[COMPARISONS] = _documents(comparing, chat, most, dropped)
    return used


def seed_of(ctx: Context) -> int:
    """Of a training's order of examples and of its held-out part."""
    return item_seed(ctx.cfg.run.seed, "train", ctx.dir.name, ctx.iteration)


def job(ctx: Context, section: TrainSection, initial: str | None) -> "Job":
    """The training job of a stage; `initial` names the input whose checkpoint/ it starts from."""
    from nemo_srlm.train.megatron.job import Job
    from nemo_srlm.train.stop_conditions import limits

    seed = seed_of(ctx)
    start = ctx.inputs[initial] / "checkpoint" if initial else None
    name, cfg = ctx.dir.name, ctx.cfg
    stop = stop_file(ctx.dir.parents[1])  # of the whole run
    leave = limits(os.environ, time.time(), cfg.run.time_budget, cfg.cluster.warning, (stop,))
    return Job(
        name, cfg.model, cfg.parallel, cfg.precision, section, seed, ctx.dir, start, ctx.progress, leave,
        projects=projects_of(cfg),
        keep_every=keep_every(cfg, name),
    )  # fmt: skip


def check(cfg: Config, name: str) -> None:
    """Raises ConfigError for a tracker that is asked for and not installed, and for a layout or batches that are impossible.
    `name`: the section of the training."""
    check_trackers(projects_of(cfg))
    check_layout(cfg.model, cfg.parallel)
    check_batches(name, getattr(cfg, name), cfg.parallel)


def checks(name: str) -> Callable[[Config], None]:
    """`check` of the section `name`, for a stage."""
    return functools.partial(check, name=name)


def open_tokenizer(ctx: Context) -> "Tokenizer":
    """The tokenizer of the run. Raises ConfigError when it has more tokens than the model."""
    from nemo_srlm.data.tokenizer import Tokenizer

    tokenizer = Tokenizer(ctx.inputs["tokenizer"] / "tokenizer")
    if tokenizer.vocab_size > ctx.cfg.model.vocab_size:
        raise ConfigError(
            "model.vocab_size", f"{ctx.cfg.model.vocab_size}", f"at least the tokenizer's {tokenizer.vocab_size} tokens"
        )
    return tokenizer


def _chat_documents(conversations: Iterable[Conversation], chat: "Chat", dropped: Counter[str]) -> "Iterator[Document]":
    """Those that the chat format can express; the others (a system message without a place for it) are counted."""
    for conversation in conversations:
        try:
            yield from chat.conversations(conversation.messages())
        except DataError:
            dropped["chat_format"] += 1


def sft_documents(path: "Path", chat: "Chat", max_length: int, dropped: Counter[str]) -> "list[Document]":
    """The examples of a JSONL file (SftExample) as documents; those that do not fit are counted by reason."""
    return _documents(read_records(path, SftExample), chat, max_length, dropped)


def _documents(
    examples: Iterable[SftExample], chat: "Chat", max_length: int, dropped: Counter[str]
) -> "list[Document]":
    return keep((chat.document(example.prompt, example.response) for example in examples), max_length, dropped)


def keep(documents: "Iterable[Document]", max_length: int, dropped: Counter[str]) -> "list[Document]":
    """The documents that fit `max_length` tokens; the others are counted by reason."""
    from nemo_srlm.train.batches import drop_reason

    kept = []
    for document in documents:
        reason = drop_reason((document,), max_length)
        if reason:
            dropped[reason] += 1
        else:
            kept.append(document)
    return kept


def hold_out(items: "Sequence[T]", num: int, where: str, seed: int) -> "tuple[list[T], list[T]]":
    """(training items, `num` items for the validation loss), both in the given order; the latter are drawn with `seed`.

    Raises ConfigError, naming the setting `where`, when no training item would remain.
    """
    if num >= len(items) > 0:
        raise ConfigError(where, str(num), f"less than the {len(items)} examples that there are", f"lower {where}")
    held = set(random.Random(seed).sample(range(len(items)), min(num, len(items))))
    return [x for i, x in enumerate(items) if i not in held], [x for i, x in enumerate(items) if i in held]


def fit_sft(ctx: Context, used: "dict[str, list[Document]]", dropped: Counter[str]) -> None:
    """Trains the input "base" on the documents of `used` (by their source) with the settings of the section sft."""
    from nemo_srlm.train.megatron.job import start
    from nemo_srlm.train.megatron.tasks import sft_task
    from nemo_srlm.train.megatron.trainer import fit

    section = ctx.cfg.sft
    wanted = job(ctx, section, initial="base")
    every = [document for documents in used.values() for document in documents]
    fitted, held = hold_out(every, section.num_validation, "sft.num_validation", wanted.seed)
    counts = {name: len(documents) for name, documents in used.items()} | (
        {"of_these_validation": len(held)} if held else {}
    )
    write_data(ctx, counts, dropped)
    validation = sft_task(held, wanted.seed, shuffled=False) if held else None
    fit(start(wanted), sft_task(fitted, wanted.seed), validation)


def write_data(ctx: Context, used: dict[str, int], dropped: Counter[str]) -> None:
    """Rank 0 writes the numbers of examples used and dropped. Raises DataError when none remains."""
    if not sum(used.values()):
        raise DataError(
            ctx.dir.name, f"no example is left; dropped: {dict(dropped)}", "at least one", "look at max_length"
        )
    if os.environ.get("RANK", "0") == "0":
        write_json(ctx.dir / DATA, {"used": used, "dropped": dict(dropped)})


def dropped_words(data: dict[str, Any]) -> str:
    """`, 24 of 40 examples dropped (24 too_long)`; "" where none was."""
    dropped = {reason: number for reason, number in data["dropped"].items() if number}
    if not dropped:
        return ""
    used = sum(number for name, number in data["used"].items() if name != "of_these_validation")
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(dropped.items()))
    return f", {sum(dropped.values())} of {used + sum(dropped.values())} examples dropped ({reasons})"


def useful_share(steps: "Sequence[dict[str, Any]]") -> dict[str, float]:
    """The share of computed positions that are tokens; {} for a training that an older version logged."""
    told = [line for line in steps if "useful" in line]
    positions = sum(line["tokens"] / line["useful"] for line in told)
    return {"useful": sum(line["tokens"] for line in told) / positions} if told else {}


def trained_tokens(steps: "Sequence[dict[str, Any]]") -> int:
    """Tokens of a whole training, of which these steps are logged: each log_every-th, and the last. Where that is not every
    step, an estimate: the others are taken to have as many as the mean of the logged ones."""
    logged: int = sum(line["tokens"] for line in steps)
    return round(logged * int(steps[-1]["step"]) / len(steps))


def summary(ctx: Context) -> dict[str, Any]:
    """Metrics for the manifest, from metrics.jsonl. Raises DataError when training is not finished."""
    from nemo_srlm.train.checkpoint_dir import BEST_FILE

    if not (ctx.dir / "checkpoint" / "final").is_dir():
        raise DataError(ctx.dir / "checkpoint", "no final weights", remedy="run the stage again: it resumes")
    path = ctx.dir / "metrics.jsonl"
    lines = [line for _, line in read_json_lines(path)]
    steps = [line for line in lines if "loss" in line]
    if not steps:
        raise DataError(path, "no step is logged", "one line per step")
    tail = steps[-TAIL:]
    names = list(steps[-1]["per"])
    found: dict[str, Any] = {
        "steps": steps[-1]["step"],
        "first": {name: steps[0][name] for name in names},
        "last": {name: sum(line[name] for line in tail) / len(tail) for name in names},
        "tokens": trained_tokens(steps),
        **useful_share(steps),
        "tokens_per_s": sorted(line["tokens_per_s"] for line in steps)[len(steps) // 2],
        "data": read_json(ctx.dir / DATA),
    }
    if "mfu" in steps[-1]:
        found["mfu"] = sorted(line["mfu"] for line in steps)[len(steps) // 2]
    checks = [line["validation"] for line in lines if "validation" in line]
    if checks:
        found["validation"] = checks[-1]
    if (chosen := ctx.dir / "checkpoint" / "final" / BEST_FILE).exists():
        found["best"] = read_json(chosen)
    section = getattr(ctx.cfg, section_of(ctx.dir.name))
    cut = short_warmup(section, found["steps"])
    if cut:
        found["warmup_steps"] = warmup_steps(section, found["steps"])
    found["summary"] = (
        f"{found['steps']} steps, loss {found['first']['loss']:.4g} -> {found['last']['loss']:.4g}, "
        f"{found['tokens_per_s']:,.0f} tokens/s"
        + (f", best at step {found['best']['step']}" if "best" in found else "")
        + (f", {cut}" if cut else "")
        + dropped_words(found["data"])
    )
    return found
