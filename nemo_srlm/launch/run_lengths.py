"""Lengths of a run's own training examples, for an estimate: of the documents that its stages train on."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nemo_srlm.config.schema import Config
from nemo_srlm.core import pipeline
from nemo_srlm.core.commands import composed
from nemo_srlm.core.manifest import read as read_manifest
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.stage import Context, Ref, stage_directory
from nemo_srlm.data.chat import Chat, Document
from nemo_srlm.errors import UserError
from nemo_srlm.stages import load
from nemo_srlm.stages.common import preference_examples, training
from nemo_srlm.train.batches import num_inputs
from nemo_srlm.train.loop_cost import TextLengths

Lengths = dict[str, list[tuple[int, ...]]]  # training stage -> tokens of the documents of each example


def run_lengths(cfg: Config, run_dir: Path) -> tuple[Lengths, TextLengths | None]:
    """(examples of sft and dpo by length, mean tokens of prompts, responses and judgements).

    Pairs are those that the DPO stage of the newest iteration that has them trains on. What the run does not train on, or does
    not have yet, is left out; the means are None without seed data. Raises UserError when a stage that makes them is not done.
    """
    found: Lengths = {}
    means = None
    wanted = (
        training.sft_inputs(cfg, eft=True) if pipeline.trains_m1(cfg) else {"tokenizer": pipeline.tokenizer_ref(cfg)}
    )
    ctx = _context(cfg, run_dir, Ref("sft", 0), wanted)
    chat = Chat.of(training.open_tokenizer(ctx), cfg.chat)
    if pipeline.trains_m1(cfg):
        used = training.seed_documents(ctx, chat, Counter())
        every = [document for documents in used.values() for document in documents]
        fitted, _ = training.hold_out(every, cfg.sft.num_validation, "sft.num_validation", training.seed_of(ctx))
        found["sft"] = [(n,) for n in num_inputs(tuple(fitted))]
        responses = used.get("ift") or used["eft"]
        means = TextLengths(
            _mean(_prompt(d) for d in responses), _mean(len(d.ids) - _prompt(d) for d in responses),
            _mean(len(d.ids) - _prompt(d) for d in used.get("eft", responses)),
        )  # fmt: skip
    pairs = _pairs(cfg, run_dir, chat)
    if pairs is not None:
        found["dpo"] = pairs
    return found, means


def _context(cfg: Config, run_dir: Path, of: Ref, wanted: dict[str, Ref]) -> Context:
    """The inputs as the stage `of` sees them. The model is not needed, so it may be missing."""
    for name, ref in wanted.items():
        if name != "base" and not _is_done(run_dir, ref):
            raise UserError(
                stage_directory(run_dir, ref), "not done", f"the output of {ref}",
                f"run `{composed('run', run_dir, '--until', ref.stage)}`, or leave out --run",
            )  # fmt: skip
    inputs = {name: stage_directory(run_dir, ref) for name, ref in wanted.items()}
    directory = stage_directory(run_dir, of)
    return Context(cfg, of.iteration, directory, inputs, Progress(directory, 0))


def _is_done(run_dir: Path, ref: Ref) -> bool:
    return read_manifest(stage_directory(run_dir, ref)) is not None


def _pairs(cfg: Config, run_dir: Path, chat: Chat) -> list[tuple[int, ...]] | None:
    """The units of the newest DPO training whose pairs are all there, as the stage makes them; None where none has them."""
    for t in range(cfg.iterations, 0, -1):
        wanted = {
            n: ref for n, ref in load("dpo").inputs(cfg, t).items() if ref.stage in ("pairs", "judge_pairs", "eft")
        }
        if not all(_is_done(run_dir, ref) for ref in wanted.values() if ref.stage != "eft"):
            continue
        ctx = _context(cfg, run_dir, Ref("dpo", t), wanted)
        pairs, replay = preference_examples.examples(ctx, chat, Counter())
        fitted, _ = training.hold_out(pairs, cfg.dpo.num_validation, "dpo.num_validation", training.seed_of(ctx))
        units = [
            (pair.chosen, pair.rejected, *([replay[i % len(replay)]] if replay else []))
            for i, pair in enumerate(fitted)
        ]
        return [tuple(num_inputs(unit)) for unit in units]
    return None


def _prompt(document: Document) -> int:
    """Tokens before the first that is trained on."""
    return int(np.argmax(document.weights > 0))


def _mean(values: Iterable[int]) -> float:
    return float(np.mean(list(values)))
