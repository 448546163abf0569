"""prompts: new instructions, written few-shot by a fixed model or the policy and filtered (prompts.jsonl, Prompt).

Attempts are made in rounds. The demonstrations of an attempt are drawn from the seed prompts and from the pool as it
stood at the round's start, and a round's size follows from what the rounds before accepted, so the accepted prompts are
a function of the settings alone: the parts hold raw attempts, and the filter is replayed over them in order.
The pool is sequential by nature, so this stage has one shard; it is a small part of an iteration's generation.
"""

import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nemo_srlm import manifest, templates
from nemo_srlm.config import Config, PromptsSection, identity
from nemo_srlm.engine import Engine, Failure, Outcome, Request
from nemo_srlm.errors import CheckpointError, DataError
from nemo_srlm.filters import PromptFilter
from nemo_srlm.prompting import few_shot_text, parse_written, sample_demonstrations, shot_separator
from nemo_srlm.records import Prompt, RankedReply, Record, SftExample, content_id, item_seed
from nemo_srlm.stage import Context, Ref, Stage
from nemo_srlm.stages.generating import engine_for, note_usage, stage_identity, tokens_of, usage_metrics
from nemo_srlm.store import PartWriter, part_files, read_records, write_records
from nemo_srlm.world.questions import is_held_out

OUTPUT = "prompts.jsonl"
SMALLEST_ROUND = 32  # attempts: a smaller one would leave the engine idle
ATTEMPTS_EACH = 20  # attempts a wanted prompt, where prompts.max_attempts is 0


@dataclass(frozen=True)
class Attempt(Record):
    """What the writer wrote, raw. id = attempt_id(index)."""

    index: int
    round: int
    text: str
    finish_reason: str  # stop | length | error
    demonstrations: tuple[str, ...]
    error: str = ""
    num_tokens: int = 0


def attempt_id(index: int) -> str:
    return f"{index:09d}"


def _never(text: str) -> bool:
    return False


def max_attempts(section: PromptsSection) -> int:
    return section.max_attempts or ATTEMPTS_EACH * section.num_prompts


@dataclass
class Pool:
    """The state between two rounds: what was accepted, from how many attempts, and why the others were not."""

    section: PromptsSection
    run_seed: int
    iteration: int
    seeds: list[str]
    earlier: list[str]  # accepted in earlier iterations
    separators: list[str]
    filter: PromptFilter
    forbidden: Callable[[str], bool]  # the tiny world: a held-out combination in other words
    accepted: list[Prompt] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    num_attempts: int = 0
    num_rounds: int = 0

    @classmethod
    def of(cls, ctx: Context) -> Self:
        """The pool before the first round. Raises DataError when there is no seed prompt."""
        section, seed_dir = ctx.cfg.prompts, ctx.inputs["seed"]
        seeds = list(dict.fromkeys(example.prompt for example in read_records(seed_dir / "ift.jsonl", SftExample)))
        if not seeds:
            raise DataError(seed_dir / "ift.jsonl", "no seed prompt to show", "IFT examples", "check seed.*")
        earlier = [
            prompt.text
            for iteration in range(1, ctx.iteration)
            for prompt in read_records(ctx.inputs[f"prompts{iteration}"] / OUTPUT, Prompt)
        ]
        held_out = {prompt.text for prompt in read_records(seed_dir / "eval_prompts.jsonl", Prompt)}
        held_out |= {reply.instruction for reply in read_records(seed_dir / "ranked_valid.jsonl", RankedReply)}
        own_mark = shot_separator(templates.load_shots(section.template))
        return cls(
            section, ctx.cfg.run.seed, ctx.iteration, seeds, earlier, [*section.separators, *([own_mark] if own_mark else [])],
            PromptFilter(section, [*seeds, *earlier], sorted(held_out)), is_held_out if ctx.cfg.world.enabled else _never,
        )  # fmt: skip

    @property
    def complete(self) -> bool:
        return len(self.accepted) >= self.section.num_prompts

    @property
    def exhausted(self) -> bool:
        return not self.complete and self.num_attempts >= max_attempts(self.section)

    def next_round(self) -> range:
        """The attempts of the next round: as many as are likely to be needed, at most round_size."""
        size = self.section.round_size
        if self.accepted:
            missing = self.section.num_prompts - len(self.accepted)
            needed = math.ceil(1.1 * missing * self.num_attempts / len(self.accepted))
            size = min(size, max(needed, SMALLEST_ROUND))
        return range(self.num_attempts, self.num_attempts + size)

    def demonstrations(self, index: int) -> tuple[str, ...]:
        """What attempt `index` of the next round is shown."""
        generated = self.earlier + [prompt.text for prompt in self.accepted]
        seed = item_seed(self.run_seed, "demonstrations", self.iteration, index)
        return sample_demonstrations(
            self.seeds, generated, seed, self.section.seed_shots, self.section.generated_shots
        )  # fmt: skip

    def consume(self, attempts: list[Attempt]) -> None:
        """One whole round, in order. What comes after the last wanted prompt counts as "not_needed"."""
        read = [self._read(attempt) for attempt in attempts]
        reasons = [reason for _, reason in read]
        written = [i for i, reason in enumerate(reasons) if not reason]
        for i, reason in zip(written, self.filter.accept_all([read[i][0] for i in written]), strict=True):
            reasons[i] = reason
        for attempt, (text, _), reason in zip(attempts, read, reasons, strict=True):
            if self.complete:
                self.reasons["not_needed"] += 1
            elif reason:
                self.reasons[reason] += 1
            else:
                made = content_id("prompt", text)
                self.accepted.append(Prompt(made, text, "generated", attempt.demonstrations))
        self.num_attempts += len(attempts)
        self.num_rounds += 1

    def _read(self, attempt: Attempt) -> tuple[str, str]:
        if attempt.error:
            return "", attempt.error.partition(":")[0]
        text, reason = parse_written(attempt.text, attempt.finish_reason == "length", self.separators)
        return (text, "held_out") if not reason and self.forbidden(text) else (text, reason)

    def shortfall(self, where: Path) -> DataError:
        """The error for a pool that stays too small: how many, why the others were rejected, what to change."""
        by_reason = ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())
        return DataError(
            where, f"{len(self.accepted)} prompts accepted of {self.num_attempts} attempts ({by_reason})",
            f"{self.section.num_prompts} (prompts.num_prompts) within {max_attempts(self.section)} attempts",
            "raise prompts.max_attempts to go on from here; or, in a new run, raise prompts.rouge_max, loosen the "
            "filter that rejects most, use another prompts.template or writer, or ask for fewer prompts",
        )  # fmt: skip

    def metrics(self) -> dict[str, Any]:
        accepted = len(self.accepted)
        return {
            "accepted": accepted,
            "attempts": self.num_attempts,
            "rounds": self.num_rounds,
            "rejected": dict(sorted(self.reasons.items())),
            "words_mean": sum(len(prompt.text.split()) for prompt in self.accepted) / max(accepted, 1),
            "summary": f"{accepted} prompts from {self.num_attempts} attempts",
        }


def _inputs(cfg: Config, iteration: int) -> dict[str, Ref]:
    refs = {"seed": Ref("seed", 0)} | {f"prompts{t}": Ref("prompts", t) for t in range(1, iteration)}
    if "prompts" in cfg.api.stages:
        return refs
    if cfg.prompts.writer == "policy":
        refs["writer"] = Ref("export", iteration - 1)
    elif not cfg.prompts.writer_path:
        refs["writer"] = Ref("export_base", 0)
    return refs


def _identity(cfg: Config, iteration: int) -> dict[str, Any]:
    """The writer counts by content: the path where it lies is of no account."""
    own = identity(cfg.prompts)
    own["template"] = templates.read_text(cfg.prompts.template)
    if cfg.prompts.writer_path:
        own["writer_path"] = model_digest(Path(cfg.prompts.writer_path)) if cfg.prompts.writer == "fixed" else ""
    return {"prompts": own, **stage_identity(cfg, "prompts")}


@functools.lru_cache(maxsize=4)
def model_digest(path: Path) -> str:
    """A fingerprint of an HF directory: small files by content, weights by name and size (they may be 140 GB)."""
    if not (path / "config.json").is_file():
        raise CheckpointError(path, "no config.json", "an HF model directory", "correct prompts.writer_path")
    small = [p for p in sorted(path.glob("*.json")) if p.is_file()]
    weights = [(p.name, p.stat().st_size) for p in sorted(path.glob("*.safetensors"))]
    return content_id([(p.name, manifest.file_digest(p)) for p in small], weights)


def _writer(ctx: Context) -> Path:
    return ctx.inputs["writer"] / "hf" if "writer" in ctx.inputs else Path(ctx.cfg.prompts.writer_path)


def _attempts(ctx: Context) -> dict[int, Attempt]:
    """What earlier runs of this stage have written down, by index."""
    found: dict[int, Attempt] = {}
    for path in part_files(ctx.dir):
        for attempt in read_records(path, Attempt):
            found.setdefault(attempt.index, attempt)
    return found


def _write(ctx: Context, engine: Engine, pool: Pool, todo: list[int]) -> Iterator[Attempt]:
    """The attempts `todo` of the next round, as they finish."""
    cfg, section = ctx.cfg, ctx.cfg.prompts
    template = templates.load_shots(section.template)
    shown = {index: pool.demonstrations(index) for index in todo}

    def request(index: int) -> Request:
        text = few_shot_text(template, shown[index])
        tokenizer = engine.tokenizer
        ids = () if tokenizer is None else (tokenizer.bos_id, *tokenizer.encode(text))
        seed = item_seed(cfg.run.seed, "prompts", ctx.iteration, index)
        return Request(
            attempt_id(index), ids, 1, seed, section.temperature, section.top_p, section.max_tokens,
            stop=tuple(pool.separators), text=text,
        )  # fmt: skip

    engine.expect(tokens_of(request(index)) for index in todo)
    for made, outcome in engine.stream(request(index) for index in todo):
        yield _attempt(int(made.id), pool.num_rounds, shown[int(made.id)], outcome)


def _attempt(index: int, number: int, demonstrations: tuple[str, ...], outcome: Outcome) -> Attempt:
    if isinstance(outcome, Failure):
        return Attempt(attempt_id(index), index, number, "", "error", demonstrations, outcome.reason)
    (draw,) = outcome
    return Attempt(attempt_id(index), index, number, draw.text, draw.finish_reason, demonstrations, "", draw.num_tokens)


def _run(ctx: Context) -> None:
    assert ctx.num_shards == 1
    pool, wanted = Pool.of(ctx), ctx.cfg.prompts.num_prompts
    writer = PartWriter(ctx)
    found, engine = _attempts(ctx), None
    started, before, num_tokens = time.monotonic(), len(found), 0
    try:
        while not (pool.complete or pool.exhausted):
            indices = pool.next_round()
            if todo := [index for index in indices if index not in found]:
                engine = engine or engine_for(ctx, "prompts", _writer(ctx))
                for attempt in _write(ctx, engine, pool, todo):
                    writer.append(attempt)
                    found[attempt.index] = attempt
                    num_tokens += attempt.num_tokens
                    ctx.progress.update(len(pool.accepted), wanted, "prompts", attempts=len(found))
            pool.consume([found[index] for index in indices])
            ctx.progress.update(len(pool.accepted), wanted, "prompts", attempts=pool.num_attempts)
    finally:
        writer.close()
        if engine is not None:
            note_usage(ctx, engine, len(found) - before, num_tokens, time.monotonic() - started)
    if pool.exhausted:
        raise pool.shortfall(ctx.dir)


def _finalize(ctx: Context) -> dict[str, Any]:
    pool, found = Pool.of(ctx), _attempts(ctx)
    while not (pool.complete or pool.exhausted):
        indices = pool.next_round()
        if missing := [index for index in indices if index not in found]:
            raise DataError(ctx.dir, f"{len(missing)} attempts are missing", remedy="run the stage again")
        pool.consume([found[index] for index in indices])
    if pool.exhausted:
        raise pool.shortfall(ctx.dir)
    write_records(ctx.dir / OUTPUT, pool.accepted)
    return pool.metrics() | {"engine": usage_metrics(ctx)}


STAGE = Stage("prompts", "generate", _inputs, _identity, _run, _finalize)
