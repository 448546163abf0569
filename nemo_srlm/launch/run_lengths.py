"""Lengths of a run's own training examples, for an estimate: of the documents that its stages train on."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nemo_srlm.config.schema import Config
from nemo_srlm.core import pipeline
from nemo_srlm.core.commands import composed
from nemo_srlm.core.files import read_records
from nemo_srlm.core.manifest import read as read_manifest
from nemo_srlm.core.progress import Progress
from nemo_srlm.core.records import PreferencePair, SftExample
from nemo_srlm.core.stage import Context, Ref, stage_directory
from nemo_srlm.data.chat import Chat, Document
from nemo_srlm.errors import UserError
from nemo_srlm.stages.common import training
from nemo_srlm.train.batches import drop_reason, num_inputs
from nemo_srlm.train.loop_cost import TextLengths

Lengths = dict[str, list[tuple[int, ...]]]  # training stage -> tokens of the documents of each example


def run_lengths(cfg: Config, run_dir: Path) -> tuple[Lengths, TextLengths | None]:
    """(examples of sft and dpo by length, mean tokens of prompts, responses and judgements).

    Pairs are those of the newest iteration that has them. What the run does not train on, or does not have yet, is left
    out; the means are None without seed data. Raises UserError when a stage that makes them is not done.
    """
    found: Lengths = {}
    means = None
    wanted = (
        training.sft_inputs(cfg, eft=True) if pipeline.trains_m1(cfg) else {"tokenizer": pipeline.tokenizer_ref(cfg)}
    )
    ctx = _context(cfg, run_dir, wanted)
    chat = Chat.of(training.open_tokenizer(ctx), cfg.chat)
    if pipeline.trains_m1(cfg):
        used = training.seed_documents(ctx, chat, Counter())
        found["sft"] = [(n,) for documents in used.values() for document in documents for n in num_inputs((document,))]
        responses = used.get("ift") or used["eft"]
        means = TextLengths(
            _mean(_prompt(d) for d in responses), _mean(len(d.ids) - _prompt(d) for d in responses),
            _mean(len(d.ids) - _prompt(d) for d in used.get("eft", responses)),
        )  # fmt: skip
    for t in range(cfg.iterations, 0, -1):
        directory = stage_directory(run_dir, Ref("pairs", t))
        if read_manifest(directory) is not None:
            found["dpo"] = _pairs(cfg, run_dir, chat, directory / "pairs.jsonl")
            break
    return found, means


def _context(cfg: Config, run_dir: Path, wanted: dict[str, Ref]) -> Context:
    """The inputs as the stage sees them. The model is not needed, so it may be missing."""
    for name, ref in wanted.items():
        if name != "base" and read_manifest(stage_directory(run_dir, ref)) is None:
            raise UserError(
                stage_directory(run_dir, ref), "not done", f"the output of {ref}",
                f"run `{composed('run', run_dir, '--until', ref.stage)}`, or leave out --run",
            )  # fmt: skip
    inputs = {name: stage_directory(run_dir, ref) for name, ref in wanted.items()}
    directory = stage_directory(run_dir, Ref("sft", 0))
    return Context(cfg, 0, directory, inputs, Progress(directory, 0))


def _pairs(cfg: Config, run_dir: Path, chat: Chat, path: Path) -> list[tuple[int, ...]]:
    replay: list[Document] = []
    if cfg.dpo.replay_weight:
        eft = _context(cfg, run_dir, {"eft": Ref("eft", 0)}).inputs["eft"] / "eft_train.jsonl"
        replay = [chat.document(example.prompt, example.response) for example in read_records(eft, SftExample)]
    units = []
    for i, pair in enumerate(read_records(path, PreferencePair)):
        both = chat.document(pair.prompt, pair.chosen), chat.document(pair.prompt, pair.rejected)
        units.append((*both, replay[i % len(replay)]) if replay else both)
    return [tuple(num_inputs(unit)) for unit in units if not drop_reason(unit, cfg.dpo.max_length)]


def _prompt(document: Document) -> int:
    """Tokens before the first that is trained on."""
    return int(np.argmax(document.weights > 0))


def _mean(values: Iterable[int]) -> float:
    return float(np.mean(list(values)))
