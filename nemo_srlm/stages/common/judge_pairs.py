"""What is compared for judge pairs: of every prompt the response whose scores differ most, with its judge's input."""

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from nemo_srlm.core.files import read_records
from nemo_srlm.core.records import Candidate, Judgement, Prompt, content_id
from nemo_srlm.core.stage import Context
from nemo_srlm.data import templates
from nemo_srlm.judge import meta
from nemo_srlm.judge.scores import judge_input
from nemo_srlm.stages.common import judged_candidates
from nemo_srlm.stages.common.comparing import Pairing
from nemo_srlm.stages.common.judging import JUDGEMENTS

USABLE_SPREAD = {"spread_of": "usable draws"}  # in identities of what reads `judged_prompts`: once of all draws


class Judged(NamedTuple):
    """`judgement` is None where no response of the prompt has two different scores; then `text` is empty."""

    prompt_id: str
    judgement: Judgement | None
    text: str  # the judge's input


def judged_prompts(ctx: Context) -> Iterator[Judged]:
    """Of every prompt with judgements the one that is compared. Reads the inputs prompts, candidates and judge."""
    template = templates.load(ctx.cfg.judge.template, templates.JUDGE)
    items = {item.id: item for item in judged_candidates.items(ctx)}
    rows = read_records(ctx.inputs["judge"] / JUDGEMENTS, Judgement)
    for prompt_id, group in groupby(rows, key=lambda judgement: judgement.prompt_id):
        found = meta.least_certain([one for one in group if not one.error])
        item = items[found.id] if found else None
        yield Judged(prompt_id, found, judge_input(template, item.instruction, item.response) if item else "")


def comparisons(ctx: Context) -> Iterator[Pairing]:
    """The pairs of judgements that the meta-judge compares."""
    for prompt_id, judgement, text in judged_prompts(ctx):
        if judgement is None:
            continue
        for a, b in meta.compared(judgement):
            found = meta.draws(judgement)
            ours, theirs = (
                Candidate(content_id("draw", judgement.id, i), prompt_id, i, found[i].text, "stop", 0) for i in (a, b)
            )
            yield Pairing(comparison_id(judgement, a, b), "", Prompt(judgement.id, text, "judge"), ours, theirs)


def comparison_id(judgement: Judgement, a: int, b: int) -> str:
    return content_id("meta", judgement.id, a, b)
