"""Pairwise comparison, for eval_h2h and select: a judge compares two responses in both orders (verdicts.jsonl, Verdict)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_srlm.core.files import read_records
from nemo_srlm.core.parts import merge_parts
from nemo_srlm.core.records import Candidate, Prompt, Record, content_id, item_seed
from nemo_srlm.core.stage import Context
from nemo_srlm.evaluate.compare_template import CompareTemplate
from nemo_srlm.generate.requests import Engine, Failure, Outcome, Request
from nemo_srlm.judge.statements import behind_thinking
from nemo_srlm.stages.common.generating import chat_ids, engine_for, run_requests

VERDICTS = "verdicts.jsonl"
ORDERS = ("first", "second")  # the place of our response: A, B


@dataclass(frozen=True)
class Verdict(Record):
    """The judge's text on one pair in one order. `verdict`: "A", "B", "tie" or "" (unparsable, or an error)."""

    text: str
    verdict: str
    error: str = ""


@dataclass(frozen=True)
class Pairing:
    """Two responses to one prompt: `ours`, and `theirs` of the model or checkpoint `other`."""

    id: str
    other: str
    prompt: Prompt
    ours: Candidate
    theirs: Candidate


def _items(pairings: Iterable[Pairing]) -> Iterator[tuple[str, tuple[Pairing, str]]]:
    """Both orders of every pair, except where one of the responses failed."""
    for p in pairings:
        if not p.ours.error and not p.theirs.error:
            yield from ((content_id(p.id, order), (p, order)) for order in ORDERS)


def compare(ctx: Context, stage: str, pairings: Iterable[Pairing], judge: Path, template: CompareTemplate) -> None:
    """Generates the verdicts at temperature 0 with the endpoint where api.stages names `stage`, else with the HF directory
    `judge`, appending them to this shard's part."""
    cfg = ctx.cfg

    def request(engine: Engine, item_id: str, item: tuple[Pairing, str]) -> Request:
        p, order = item
        a, b = (p.ours, p.theirs) if order == "first" else (p.theirs, p.ours)
        system, text = template.messages(p.prompt.text, a.text, b.text)
        seed = item_seed(cfg.run.seed, stage, item_id)
        ids = chat_ids(ctx, engine, text, system)
        return Request(item_id, ids, 1, seed, 0.0, 1.0, cfg.judge.max_tokens, text=text, system=system)

    def records(item: tuple[Pairing, str], outcome: Outcome) -> list[Verdict]:
        verdict_id = content_id(item[0].id, item[1])
        if isinstance(outcome, Failure):
            return [Verdict(verdict_id, "", "", outcome.reason)]
        said = behind_thinking(outcome[0].text, cfg.judge.thinking_end, outcome[0].finish_reason == "length")
        verdict = template.verdict(said, (item[0].ours.text, item[0].theirs.text))
        return [Verdict(verdict_id, outcome[0].text, verdict)]

    run_requests(ctx, _items(pairings), lambda: engine_for(ctx, stage, judge), request, records, "verdicts")


def merge_verdicts(ctx: Context, pairings: Sequence[Pairing]) -> list[tuple[Verdict | None, Verdict | None]]:
    """Writes verdicts.jsonl. Returns the verdicts of each pairing in both orders, None where a response failed."""
    merge_parts(ctx, Verdict, (item_id for item_id, _ in _items(pairings)), VERDICTS)
    found = {v.id: v for v in read_records(ctx.dir / VERDICTS, Verdict)}
    return [(found.get(content_id(p.id, "first")), found.get(content_id(p.id, "second"))) for p in pairings]
